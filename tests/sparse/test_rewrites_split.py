"""Split a level into work tiles, and rewalk: the new format in place of the old one."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.sparse.axes import DenseFixed, DenseVariable
from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.format import Format
from heddle.ir_passes.sparse.formats import CSR, balanced, csr, dcsr, dense, ell, to_csr, to_dcsr, to_ell
from heddle.ir_passes.sparse.formats.work import item_rows
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.rewrites.fuse_rows import fuse_rows
from heddle.ir_passes.sparse.rewrites.rewalk import rewalk
from heddle.ir_passes.sparse.rewrites.split import split_level, split_rows
from heddle.ir_passes.sparse.tensor import Tensor
from tests.sparse.rewrite_programs import STEPS, assert_same_lowering, attention, normal, spmm, variables
from tests.sparse.tools import build, call, random_matrix


def over_csr(**options):
    m, n, nnz = variables("m n nnz")
    fmt = csr(m, n, nnz)
    return spmm(fmt, m, n, 8, **options), fmt


def test_expected_dealt_rows_of_csr_are_balanced_csr():
    program, fmt = over_csr()
    (bounds,) = variables("bounds")
    found = rewalk(program, fmt, split_rows(fmt, bounds - 1, "balanced"))
    m, n, nnz, b = variables("m n nnz b")
    assert_same_lowering(found, spmm(balanced(m, n, nnz, b - 1), m, n, 8))


def test_expected_tiles_of_a_dense_level():
    m, n = variables("m n")
    fmt = dense(m, n)
    tiles = split_level(fmt, "J", 4)
    text = str(rewalk(spmm(fmt, m, n, 8), fmt, tiles))
    assert "Jo: dense fixed[(n + 4 - 1) // 4]" in text
    assert "valid Jo.rel * 4 + Ji.rel < n" in text
    whole = split_level(dense(m * 4, n), "I", 4)
    assert whole.valid is None
    assert isinstance(whole.levels[0], DenseFixed)


def test_orders_depths_and_fused_levels_follow():
    program, fmt = over_csr(order=("k", "I", "J"))
    dealt = split_rows(fmt, 3, "dealt")
    assert rewalk(program, fmt, dealt).steps[0].order == ("k", "W", "I", "J")
    m, n = 12, 5
    rows = dense(m, n)
    tiles = split_level(rows, "I", 4)
    assert rewalk(spmm(rows, m, n, order=("I", "k", "J")), rows, tiles).steps[0].order == ("Io", "Ii", "k", "J")
    program = attention(rows, (m, n))
    found = rewalk(fuse_rows(program, STEPS), rows, tiles)
    assert found.steps[0].levels == 2
    assert found.steps[0].iterations[-1].depth == 2
    columns = split_level(rows, "J", 5)
    found = rewalk(fuse_rows(program, STEPS), rows, columns)
    assert found.steps[0].levels == 1
    assert found.steps[0].iterations[-1].depth == 1


def test_must_not_fire():
    m, n, nnz = variables("m n nnz")
    fmt = csr(m, n, nnz)
    with pytest.raises(SparseError, match="not provably a multiple of 4"):
        split_level(fmt, "I", 4)
    with pytest.raises(SparseError, match="level J of csr is sparse variable"):
        split_level(fmt, "J", 4)
    with pytest.raises(SparseError, match="has no level K"):
        split_level(fmt, "K", 4)
    with pytest.raises(SparseError, match="tiles of 0"):
        split_level(dense(m, n), "J", 0)
    with pytest.raises(SparseError, match="has bounds already"):
        split_rows(dataless(m), 2, "again")
    with pytest.raises(SparseError, match="does not use the format other"):
        rewalk(spmm(fmt, m, n), csr(m, n, nnz, "other"), fmt)
    with pytest.raises(SparseError, match="the values stay where they are"):
        rewalk(spmm(fmt, m, n), fmt, dense(m, n))


def dataless(m):
    """A format whose first level has bounds: rows that were dealt out, without the level of items."""
    return Format("bounded", (DenseVariable("I", m, m, 1, "b_"),), lambda i: (i.coord,))


@pytest.mark.parametrize("items", [1, 3, 40])
@pytest.mark.parametrize("kind", ["csr", "dcsr", "ell"])
def test_numeric_dealt_rows(kind, items):
    m, n, nnz, rows, width, u = variables("m n nnz rows width bounds")
    fmt = {"csr": lambda: csr(m, n, nnz), "dcsr": lambda: dcsr(m, n, rows, nnz), "ell": lambda: ell(m, n, rows, width)}[
        kind
    ]()
    kernel = build(rewalk(spmm(fmt, m, n, 8), fmt, split_rows(fmt, u - 1, "dealt")))
    for a in (
        random_matrix(np.random.default_rng(0), 21, 13, 0.2, "rows"),
        CSR.from_dense(np.zeros((3, 2), np.float32)),
    ):
        operand = {"csr": to_csr, "dcsr": to_dcsr, "ell": to_ell}[kind](a)
        count = len(operand.arrays[0]) - (kind == "csr")
        bounds = item_rows(a.indptr, items) if kind == "csr" else np.linspace(0, count, items + 1).astype(np.int32)
        b = normal(1, a.shape[1], 8)
        np.testing.assert_allclose(
            call(kernel, [bounds, *operand.params, b], (a.shape[0], 8)), a.to_dense() @ b, atol=1e-5
        )


@pytest.mark.parametrize(("level", "factor"), [("J", 4), ("I", 4), ("J", 1), ("I", 50)])
def test_numeric_tiles_with_a_tail(level, factor):
    m, n = variables("m n")
    fmt = dense(m, n)
    kernel = build(rewalk(spmm(fmt, m, n, 8), fmt, split_level(fmt, level, factor)))
    for rows, columns in ((9, 11), (8, 4), (1, 1)):
        a, b = normal(2, rows, columns), normal(3, columns, 8)
        np.testing.assert_allclose(call(kernel, [a, b], (rows, 8)), a @ b, atol=1e-5)


def test_numeric_tiles_above_sparse_levels():
    n, nnz = variables("n nnz")
    fmt = csr(12, n, nnz)
    kernel = build(rewalk(spmm(fmt, 12, n, 8), fmt, split_level(fmt, "I", 4)))
    a, b = random_matrix(np.random.default_rng(4), 12, 9, 0.3), normal(5, 9, 8)
    np.testing.assert_allclose(call(kernel, [*to_csr(a).params, b], (12, 8)), a.to_dense() @ b, atol=1e-5)


def test_partial_tiles_may_only_add():
    """The padding of the last tile stands at the last entry: an assignment there would replace it."""
    m, n = variables("m n")
    fmt = dense(m, n)
    i, j = coords("i j")
    a, y = Tensor("A", (m, n), fmt), Tensor("Y", (m, n), fmt)
    for combine in (None, "sum"):
        it = Iteration("twice", fmt, (i, j), {}, y[i, j], a[i, j] * 2.0, combine)
        program = Program("twice", (it,), (a, y), (a, y))
        with pytest.raises(SparseError, match="writes Y in tiles of Jo, the last of which is partial"):
            lower(rewalk(program, fmt, split_level(fmt, "J", 4)))
    fused = fuse_rows(attention(fmt, (m, n)), STEPS, local={"S": 64, "P": 64, "M": True, "L": True, "O": True})
    with pytest.raises(SparseError, match=r"share tiles of Io|in tiles of Io"):
        lower(rewalk(fused, fmt, split_level(fmt, "I", 4)))
    whole = dense(8, 8)
    b, z = Tensor("B", (8, 8), whole), Tensor("Z", (8, 8), whole)
    program = Program("twice", (Iteration("twice", whole, (i, j), {}, z[i, j], b[i, j] * 2.0),), (b, z), (b, z))
    values = normal(6, 8, 8)
    found = call(build(rewalk(program, whole, split_level(whole, "J", 4))), [values], (8, 8))
    np.testing.assert_array_equal(found, values * 2)
