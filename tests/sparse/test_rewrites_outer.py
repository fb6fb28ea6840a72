"""Reductions in an outer block, and what is empty: matrices, rows, buckets, heads."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.formats import CSR, coo, csc, csr, hyb, to_coo, to_csc, to_csr, to_hyb
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.rewrites.decompose import decompose
from heddle.ir_passes.sparse.rewrites.reorder import reorder
from heddle.ir_passes.sparse.tensor import Tensor
from tests.sparse.rewrite_programs import normal, spmm, variables
from tests.sparse.tools import build, call, random_matrix


def matrices():
    rng = np.random.default_rng(0)
    yield random_matrix(rng, 14, 11, 0.3, "rows")
    for shape in ((6, 5), (1, 1), (3, 0), (0, 3)):
        yield CSR.from_dense(np.zeros(shape, np.float32))


@pytest.mark.parametrize("combine", ["sum", "max"])
@pytest.mark.parametrize("kind", ["csc", "coo"])
def test_the_reduced_level_is_outermost(kind, combine):
    """csc walks columns first: every row is come back to, for any combination."""
    m, n, nnz = variables("m n nnz")
    fmt = {"csc": csc, "coo": coo}[kind](m, n, nnz)
    kernel = build(spmm(fmt, m, n, 8, combine))
    for a in matrices():
        b, d = normal(1, a.shape[1], 8), a.to_dense()
        identity = 0 if combine == "sum" else np.finfo(np.float32).min
        products = np.where((d != 0)[:, :, None], d[:, :, None] * b, identity)
        want = products.sum(1) if combine == "sum" else products.max(1, initial=identity)
        arrays = {"csc": to_csc, "coo": to_coo}[kind](a).params
        np.testing.assert_allclose(call(kernel, [*arrays, b], (a.shape[0], 8)), want, atol=1e-5)


@pytest.mark.parametrize("order", [("I", "J", "|", "k"), ("k", "I", "J"), ("I", "k", "|", "J")])
def test_a_block_behind_the_reduced_level(order):
    m, n, nnz = variables("m n nnz")
    kernel = build(reorder(spmm(csr(m, n, nnz), m, n), "spmm", order))
    for a in matrices():
        b = normal(2, a.shape[1], 8)
        found = call(kernel, [*to_csr(a).params, b], (a.shape[0], 8))
        np.testing.assert_allclose(found, a.to_dense() @ b, atol=1e-5)


def test_a_reduction_over_everything():
    """The output has no coordinate of the walk: all levels are reduced, the outer ones in an outer block."""
    m, n, nnz = variables("m n nnz")
    fmt = csr(m, n, nnz)
    i, j, z = coords("i j z")
    a, x, c = Tensor("A", (m, n), fmt), Tensor("X", (m, 4)), Tensor("C", (4,))
    it = Iteration("all", fmt, (i, j), {z: 4}, c[z], a[i, j] * x[i, z], "sum")
    kernel = build(Program("all", (it,), (a, x, c), (*fmt.aux, a, x, c)))
    for matrix in matrices():
        x_ = normal(3, matrix.shape[0], 4)
        want = matrix.to_dense().sum(1) @ x_
        np.testing.assert_allclose(call(kernel, [*to_csr(matrix).params, x_], (4,)), want, atol=1e-5)


def test_empty_buckets_of_a_decomposition():
    """Every member empty in turn, and all of them: the others' rows are right, and what nobody owns is 0."""
    m, n, nnz = variables("m n nnz")
    kernel = build(decompose(spmm(csr(m, n, nnz), m, n), "spmm", hyb(m, n, (1, 2))))
    lengths = ([1, 1, 1], [2, 2], [5, 5], [1, 2, 5], [0, 0], [1, 0, 5], [2, 5])
    for counts in lengths:
        a = np.zeros((len(counts), 6), np.float32)
        for row, count in enumerate(counts):
            a[row, :count] = 1 + row
        b = normal(4, 6, 8)
        arrays = [x for member in to_hyb(CSR.from_dense(a), (1, 2)) for x in member.params]
        np.testing.assert_allclose(call(kernel, [*arrays, b], (len(counts), 8)), a @ b, atol=1e-5)


def test_beginning_is_refused_where_elements_come_back():
    m, n, nnz = variables("m n nnz")
    with pytest.raises(SparseError, match="is to begin its elements, and comes back to some"):
        lower(spmm(csc(m, n, nnz), m, n, begins=True))
    with pytest.raises(SparseError, match="is to begin its elements, and comes back to some"):
        lower(spmm(coo(m, n, nnz), m, n, begins=True))
