"""Entries off the walk: co-iteration of two sparse operands by search, values of what is not stored, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.formats import CSR, band, bsr, csc, csr, dcsr, ell, to_bsr, to_csc, to_csr, to_dcsr
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.tensor import Tensor
from heddle.schedules.compat import T
from tests.sparse.rewrite_programs import variables
from tests.sparse.tools import build, call, random_matrix

SEARCHED = {"csr": to_csr, "csc": to_csc, "dcsr": to_dcsr, "bsr": lambda a: to_bsr(a, 2)}
ROWS, COLUMNS = 12, 10


def searched(kind, m=ROWS, n=COLUMNS):
    p, rows = variables("p rows")
    return {
        "csr": lambda: csr(m, n, p, "s"),
        "csc": lambda: csc(m, n, p, "s"),
        "dcsr": lambda: dcsr(m, n, rows, p, "s"),
        "bsr": lambda: bsr(m, n, p, 2, "s"),
    }[kind]()


def product(other, value, combine="sum", miss=None, m=ROWS, n=COLUMNS):
    """C[i] combine= value(A[i, j], S[i, j]) over csr A."""
    fmt = csr(m, n, *variables("nnz"))
    i, j = coords("i j")
    a, s, c = Tensor("A", (m, n), fmt), Tensor("S", (m, n), other, miss=miss), Tensor("C", (m,))
    it = Iteration("both", fmt, (i, j), {}, c[i], value(a[i, j], s[i, j]), combine)
    return Program("both", (it,), (a, s, c), (*fmt.aux, a, *other.aux, s, c))


def pairs():
    rng = np.random.default_rng(0)
    yield random_matrix(rng, ROWS, COLUMNS, 0.4), random_matrix(rng, ROWS, COLUMNS, 0.3, "rows")
    yield random_matrix(rng, ROWS, COLUMNS, 0.4), CSR.from_dense(np.zeros((ROWS, COLUMNS), np.float32))
    yield CSR.from_dense(np.zeros((ROWS, COLUMNS), np.float32)), random_matrix(rng, ROWS, COLUMNS, 0.4)


@pytest.mark.parametrize("kind", SEARCHED)
def test_sparse_times_sparse(kind):
    kernel = build(product(searched(kind), lambda a, s: a * s))
    for a, s in pairs():
        want = (a.to_dense() * s.to_dense()).sum(1)
        np.testing.assert_allclose(
            call(kernel, [*to_csr(a).params, *SEARCHED[kind](s).params], (ROWS,)), want, atol=1e-5
        )


@pytest.mark.parametrize("combine", ["sum", "max", "min"])
def test_a_stated_miss_value_counts_where_nothing_is_stored(combine):
    kernel = build(product(searched("csr"), lambda a, s: a + s, combine, miss=0.5))
    for a, s in pairs():
        left, right = a.to_dense(), np.where(s.to_dense() == 0, np.float32(0.5), s.to_dense())
        identity = {"sum": 0, "max": np.finfo(np.float32).min, "min": np.finfo(np.float32).max}[combine]
        kept = np.where(left != 0, left + right, identity)
        want = getattr(kept, combine)(1)
        np.testing.assert_allclose(call(kernel, [*to_csr(a).params, *to_csr(s).params], (ROWS,)), want, atol=1e-5)


def test_sparse_matrix_times_sparse_matrix():
    """D = A @ S with both sparse: the row of S follows from A, its column is free."""
    m, n, nnz, p = variables("m n nnz p")
    k = 7
    f, g = csr(m, k, nnz), csr(k, n, p, "s")
    i, j, c = coords("i j c")
    a, s, d = Tensor("A", (m, k), f), Tensor("S", (k, n), g), Tensor("D", (m, n))
    it = Iteration("spgemm", f, (i, j), {c: n}, d[i, c], a[i, j] * s[j, c], "sum")
    kernel = build(Program("spgemm", (it,), (a, s, d), (*f.aux, a, *g.aux, s, d)))
    rng = np.random.default_rng(1)
    for left, right in (
        (random_matrix(rng, 9, 7, 0.3), random_matrix(rng, 7, 11, 0.3, "rows")),
        (CSR.from_dense(np.zeros((2, 7), np.float32)), random_matrix(rng, 7, 4, 0.5)),
    ):
        want = left.to_dense() @ right.to_dense()
        found = call(kernel, [*to_csr(left).params, *to_csr(right).params], want.shape)
        np.testing.assert_allclose(found, want, atol=1e-5)


def test_a_search_that_depends_on_a_read_coordinate():
    """A[i, j] * A[j, i] over one matrix, in one format: the transpose is off the walk."""
    m = 15
    fmt = csr(m, m, *variables("nnz"))
    i, j = coords("i j")
    a, y = Tensor("A", (m, m), fmt), Tensor("Y", (m, m), fmt)
    it = Iteration("mutual", fmt, (i, j), {}, y[i, j], a[i, j] * a[j, i])
    kernel = build(Program("mutual", (it,), (a, y), (*fmt.aux, a, y)))
    matrix = random_matrix(np.random.default_rng(2), 15, 15, 0.4)
    dense = matrix.to_dense()
    found = call(kernel, to_csr(matrix).params, (matrix.nnz,))
    np.testing.assert_allclose(found, (dense * dense.T)[dense != 0], atol=1e-6)


@pytest.mark.parametrize(
    ("value", "combine", "message"),
    [
        (lambda a, s: a + s, "sum", "not a product with what it walks"),
        (lambda a, s: s, "sum", "entries of S where the walk has none would be missed"),
        (lambda a, s: T.exp(a) * s, "sum", "not a product with what it walks"),
        (lambda a, s: a * s, "max", "takes the max over S"),
        (lambda a, s: a * s, "min", "takes the min over S"),
    ],
)
def test_unsupported_co_iteration_is_refused(value, combine, message):
    with pytest.raises(SparseError, match=message) as error:
        lower(product(searched("csr"), value, combine))
    assert "miss=0.0" in str(error.value)


def test_formats_that_cannot_be_searched_are_refused():
    rows = variables("rows")[0]
    with pytest.raises(SparseError, match="its level J is not in order"):
        lower(product(ell(ROWS, COLUMNS, rows, 4, "s"), lambda a, s: a * s))
    with pytest.raises(SparseError, match="its coordinate 1 is"):
        lower(product(band(ROWS, COLUMNS, 1, 1, "s"), lambda a, s: a * s))
