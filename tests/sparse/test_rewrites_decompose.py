"""Decompose: one iteration over a format becomes one over each member."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.formats import (
    COMPOSITIONS,
    CSR,
    csr,
    dcsr,
    dense,
    hyb,
    outliers,
    to_dense_and_outliers,
    to_hyb,
)
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.rewrites.decompose import decompose
from heddle.ir_passes.sparse.rewrites.reorder import reorder
from heddle.ir_passes.sparse.tensor import Tensor
from heddle.schedules.compat import tirx, tvm
from tests.sparse.rewrite_programs import assert_same_lowering, normal, spmm, variables
from tests.sparse.tools import build, call, random_matrix


def over_csr(combine="sum", **options):
    m, n, nnz = variables("m n nnz")
    return spmm(csr(m, n, nnz), m, n, 8, combine, **options), m, n


def test_expected_begins_disjoint_members_after_one_fill():
    program, m, n = over_csr()
    two, tail = hyb(m, n, (2,))
    found = decompose(program, "spmm", [two, tail])
    i, j, k = coords("i j k")
    a2, at = (Tensor(f"A_{f.name}", (m, n), f) for f in (two, tail))
    b, c = program.tensors[1:]
    x, y = coords("x y")
    expected = Program(
        "spmm",
        (
            Iteration("spmm_fill", None, (), {x: m, y: 8}, c[x, y], tirx.const(0, "float32")),
            Iteration("spmm_hyb0_ell2", two, (i, j), {k: 8}, c[i, k], a2[i, j] * b[j, k], "sum", begins=True),
            Iteration("spmm_hyb0_tail", tail, (i, j), {k: 8}, c[i, k], at[i, j] * b[j, k], "sum", begins=True),
        ),
        (a2, at, b, c),
        (*two.aux, a2, *tail.aux, at, b, c),
    )
    assert_same_lowering(found, expected)
    assert "begins" in str(found)
    assert "accumulate" not in str(found)


def test_a_covering_member_begins_and_the_others_accumulate_without_a_fill():
    program, m, n = over_csr()
    above = dcsr(m, n, *variables("rows large"), "above")
    found = decompose(program, "spmm", [above, dense(m, n, "rest")])
    assert [(it.name, it.accumulate) for it in found.steps] == [("spmm_rest", False), ("spmm_above", True)]


def test_merged_members_accumulate_after_one_fill():
    program, m, n = over_csr()
    found = decompose(program, "spmm", hyb(m, n, (2,), parts=2))
    assert [it.name for it in found.steps if not it.accumulate] == ["spmm_fill"]
    assert len(found.steps) == 5
    assert not any(it.begins for it in found.steps)


@pytest.mark.parametrize("combine", [None, "max"])
def test_must_not_fire_on_members_that_add_up_without_a_sum(combine):
    program, m, n = over_csr(combine)
    with pytest.raises(SparseError, match="cannot be decomposed into members that add up") as error:
        decompose(program, "spmm", outliers(m, n, *variables("large")))
    assert "partition=True" in str(error.value)


def test_must_not_fire_on_values_that_are_not_linear():
    m, n, nnz = variables("m n nnz")
    fmt = csr(m, n, nnz)
    i, j = coords("i j")
    a, c = Tensor("A", (m, n), fmt), Tensor("C", (m,))
    program = Program(
        "squares", (Iteration("sq", fmt, (i, j), {}, c[i], a[i, j] * a[i, j], "sum"),), (a, c), (*fmt.aux, a, c)
    )
    with pytest.raises(SparseError, match="not linear in what is stored"):
        decompose(program, "sq", outliers(m, n, *variables("large")))
    assert len(decompose(program, "sq", hyb(m, n, (2,)), partition=True).steps) == 3


def test_must_not_fire_where_members_cannot_stand():
    program, m, n = over_csr()
    with pytest.raises(SparseError, match="no iteration gemm"):
        decompose(program, "gemm", [dense(m, n)])
    with pytest.raises(SparseError, match="2 members with 1 names"):
        decompose(program, "spmm", [dense(m, n), dense(m, n)])
    scattered, m, n = over_csr(order=("I", "k", "J"))
    with pytest.raises(SparseError, match="other axes between its levels"):
        decompose(scattered, "spmm", [dense(m, n)])


def test_an_order_is_kept_around_the_levels():
    program, m, n = over_csr(order=("k", "I", "J"))
    found = decompose(program, "spmm", outliers(m, n, *variables("large")))
    assert [it.order for it in found.steps] == [("k", "I", "J")] * 2


def matrices():
    """A skewed matrix, one without entries, one whose rows all fall into one bucket, and one row."""
    rng = np.random.default_rng(0)
    yield random_matrix(rng, 23, 17, 0.2, "rows")
    yield CSR.from_dense(np.zeros((5, 7), np.float32))
    yield CSR.from_dense(np.eye(6, 6, dtype=np.float32))
    yield random_matrix(rng, 1, 9, 0.5)


@pytest.mark.parametrize("parts", [1, 2])
def test_numeric_hyb(parts):
    program, m, n = over_csr()
    kernel = build(decompose(program, "spmm", hyb(m, n, (1, 4), parts)))
    for a in matrices():
        b = normal(1, a.shape[1], 8)
        arrays = [x for member in to_hyb(a, (1, 4), parts) for x in member.params]
        np.testing.assert_allclose(call(kernel, [*arrays, b], (a.shape[0], 8)), a.to_dense() @ b, atol=1e-5)


def test_numeric_dense_and_outliers():
    program, m, n = over_csr()
    kernel = build(decompose(program, "spmm", outliers(m, n, *variables("large"))))
    for a in matrices():
        b = normal(2, a.shape[1], 8)
        arrays = [x for member in to_dense_and_outliers(a.to_dense(), 1.0) for x in member.params]
        np.testing.assert_allclose(call(kernel, [*arrays, b], (a.shape[0], 8)), a.to_dense() @ b, atol=1e-5)


def test_numeric_max_over_a_partition():
    program, m, n = over_csr("max")
    kernel = build(decompose(program, "spmm", hyb(m, n, (1, 2)), partition=True))
    for a in matrices():
        b = normal(3, a.shape[1], 8)
        arrays = [x for member in to_hyb(a, (1, 2)) for x in member.params]
        d = a.to_dense()
        want = np.max(d[:, :, None] * b, axis=1, initial=np.finfo(np.float32).min, where=(d != 0)[:, :, None])
        np.testing.assert_allclose(call(kernel, [*arrays, b], (a.shape[0], 8)), want, rtol=1e-6)


def test_numeric_output_in_the_members():
    """sddmm: every member has values of its own."""
    m, n, nnz = variables("m n nnz")
    fmt = csr(m, n, nnz)
    i, j = coords("i j")
    z = coords("z")
    a, y = Tensor("A", (m, n), fmt), Tensor("Y", (m, n), fmt)
    q, k = Tensor("Q", (m, 8)), Tensor("K", (n, 8))
    it = Iteration("sddmm", fmt, (i, j), {z: 8}, y[i, j], a[i, j] * q[i, z] * k[j, z], "sum")
    program = Program("sddmm", (it,), (a, q, k, y), (*fmt.aux, a, q, k, y))
    kernel = build(decompose(program, "sddmm", hyb(m, n, (2,))))
    matrix = random_matrix(np.random.default_rng(4), 12, 9, 0.3)
    members, x, w = to_hyb(matrix, (2,)), normal(5, 12, 8), normal(6, 9, 8)
    outs = [tvm.runtime.tensor(np.full(member.values.shape, np.nan, np.float32)) for member in members]
    arrays = [*(p for member in members for p in member.params), x, w]
    kernel(*(tvm.runtime.tensor(np.ascontiguousarray(p)) for p in arrays), *outs)
    found = sum(
        type(member)(member.fmt, member.arrays, out.numpy(), member.shape).to_dense()
        for member, out in zip(members, outs, strict=True)
    )
    np.testing.assert_allclose(found, matrix.to_dense() * (x @ w.T), atol=1e-5)


def test_every_composition_of_the_library_decomposes():
    for entry in COMPOSITIONS.values():
        program, m, n = over_csr()
        found = decompose(program, "spmm", entry.symbolic(m, n, **entry.params))
        assert len({it.out.source for it in found.iterations()}) == 1
        last = found.steps[-1]
        order = ("k", *(level.name for level in last.walk.levels))
        assert reorder(found, last.name, order).steps[-1].order == order
