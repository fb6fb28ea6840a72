"""Fuse rows: steps over one format in one pass over its rows, intermediates row-local."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from heddle.ir_passes.sparse.axes import index
from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.formats import CSR, coo, csr, ell, to_csr, to_ell
from heddle.ir_passes.sparse.iteration import Fused, Iteration, Program, coords
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.rewrites.fuse_rows import fuse_rows
from heddle.ir_passes.sparse.tensor import Tensor
from tests.sparse.rewrite_programs import (
    STEPS,
    assert_same_lowering,
    attention,
    normal,
    softmax_attention,
    spmm,
    variables,
)
from tests.sparse.tools import build, call, random_matrix

LOCAL = {"S": 64, "P": 64, "M": True, "L": True, "O": True}


def over_csr():
    m, n, nnz = variables("m n nnz")
    return attention(csr(m, n, nnz), (m, n))


def sums():
    """Row sums R of A, then A / R: two steps of which the first one's result is a row's own."""
    m, n, nnz = 12, *variables("n nnz")
    fmt = csr(m, n, nnz)
    i, j = coords("i j")
    a, y, r = Tensor("A", (m, n), fmt), Tensor("Y", (m, n), fmt), Tensor("R", (m,))
    steps = (
        Iteration("sum", fmt, (i, j), {}, r[i], a[i, j], "sum"),
        Iteration("divide", fmt, (i, j), {}, y[i, j], a[i, j] / r[i]),
    )
    return Program("normalise", steps, (a, r, y), (*fmt.aux, a, r, y))


def test_expected():
    program = sums()
    a, _r, y = program.tensors
    fmt = a.fmt
    i, j = coords("i j")
    row = Tensor("R", (1,), row_local=True)
    steps = (
        Fused(
            1,
            (
                Iteration("sum", fmt, (i, j), {}, row[0], a[i, j], "sum"),
                Iteration("divide", fmt, (i, j), {}, y[i, j], a[i, j] / row[0]),
            ),
        ),
    )
    expected = Program("normalise", steps, (a, row, y), (*fmt.aux, a, y))
    assert_same_lowering(fuse_rows(program, ["sum", "divide"], local={"R": True}), expected)


def test_what_is_not_local_stays_in_memory():
    found = fuse_rows(sums(), ["sum", "divide"])
    assert [p.name for p in found.params if isinstance(p, Tensor)] == ["A", "R", "Y"]
    lower(found)


@pytest.mark.parametrize("name", ["M", "S"])
def test_must_not_fire_for_intermediates_that_are_read_outside(name):
    with pytest.raises(SparseError, match=f"{name} cannot be row-local: weight, outside of the group, uses it"):
        fuse_rows(over_csr(), ["score", "top"], local={name: 64})


def test_must_not_fire_where_other_rows_results_are_needed():
    program = sums()
    a, r, _y = program.tensors
    i, j = program.steps[1].coords
    other = dataclasses.replace(program.steps[1], value=a[i, j] / r[j])
    with pytest.raises(SparseError, match="which may be of another row"):
        fuse_rows(dataclasses.replace(program, steps=(program.steps[0], other)), ["sum", "divide"])
    # The other way round, the reader would see what the writer left for earlier rows.
    with pytest.raises(SparseError, match="too early or too late"):
        fuse_rows(dataclasses.replace(program, steps=(other, program.steps[0])), ["divide", "sum"])


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["score", "weight"], {}, "not consecutive steps"),
        (["score", "nothing"], {}, "has no iteration nothing"),
        ([], {}, "no iterations are not consecutive"),
        (["score", "top"], {"levels": 3}, "share 3 levels of 2"),
        (["mix", "norm"], {"levels": 2}, "norm walks 1 levels, 2 are to be shared"),
        (["total", "mix"], {"local": {"P": 64}}, "P cannot be row-local: weight, outside of the group"),
        (STEPS, {"local": {"S": True}}, "the most entries that a row may have"),
        (STEPS, {"local": {"T": True}}, "has no tensor T"),
    ],
)
def test_must_not_fire_on(names, options, message):
    with pytest.raises(SparseError, match=message):
        fuse_rows(over_csr(), names, **options)


def test_must_not_fire_where_a_row_comes_in_pieces():
    m, n, nnz = variables("m n nnz")
    fmt = coo(m, n, nnz)
    with pytest.raises(SparseError, match="may name a row again on level I"):
        fuse_rows(attention(fmt, (m, n)), STEPS)


def test_must_not_fire_over_two_formats_or_what_is_not_a_row():
    m, n, p, q = variables("m n p q")
    left, right = spmm(csr(m, n, p), m, n), spmm(csr(m, n, q, "other"), m, n)
    second = dataclasses.replace(right.steps[0], name="second")
    both = Program("two", (*left.steps, second), (*left.tensors, *right.tensors), (*left.params, *right.params))
    with pytest.raises(SparseError, match="walk different formats"):
        fuse_rows(both, ["spmm", "second"])
    fmt = csr(m, n, p)
    i, j = coords("i j")
    a, s = Tensor("A", (m, n), fmt), Tensor("total", (1,))
    program = Program(
        "all", (Iteration("all", fmt, (i, j), {}, s[index(0)], a[i, j], "sum"),), (a, s), (*fmt.aux, a, s)
    )
    with pytest.raises(SparseError, match="not indexed with the row's coordinates"):
        fuse_rows(program, ["all"], local={"total": True})


def masks():
    rng = np.random.default_rng(0)
    yield random_matrix(rng, 19, 13, 0.3, "rows")
    yield CSR.from_dense(np.zeros((3, 5), np.float32))


@pytest.mark.parametrize("kind", ["csr", "ell"])
@pytest.mark.parametrize("local", [LOCAL, {"M": True}, {}], ids=["all", "M", "none"])
def test_numeric_sparse_attention(kind, local):
    """ell has padding: its entries are masked in every step."""
    m, n, nnz, rows = variables("m n nnz rows")
    fmt = csr(m, n, nnz) if kind == "csr" else ell(m, n, rows, 16)
    kernel = build(fuse_rows(attention(fmt, (m, n)), STEPS, local=local))
    for a in masks():
        operand = to_csr(a) if kind == "csr" else to_ell(a, width=16)
        (rows, columns), q = a.shape, normal(1, a.shape[0], 8)
        k, v = normal(2, columns, 8), normal(3, columns, 8)
        shapes = {"S": operand.values.shape, "P": operand.values.shape, "M": (rows,), "L": (rows,), "O": (rows, 8)}
        scratch = [np.full(shapes[name], np.nan, np.float32) for name in "SMPLO" if name not in local]
        found = call(kernel, [*operand.arrays, q, k, v, *scratch], (rows, 8))
        np.testing.assert_allclose(found, softmax_attention(q, k, v, a.to_dense() != 0), atol=1e-5)
