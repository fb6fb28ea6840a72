"""spmm by max and min: the largest or smallest product of each row's entries, 0 in rows without any."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from heddle.ir_passes.dialect import spmm as spmm_of_tensors
from heddle.ir_passes.sparse.errors import SparseError
from heddle.ir_passes.sparse.formats import CSR, MATRIX_FORMATS
from heddle.ir_passes.sparse.kernels.matrix import convert, spmm
from heddle.ir_passes.sparse.kernels.programs import spmm_extreme
from heddle.schedules.compat import tirx, tvm
from heddle.schedules.target import resolve_target

COMBINES = {"max": np.max, "min": np.min}


@functools.cache
def compiled(format: str, width: int, combine: str) -> Callable[..., None]:
    func = spmm(format=format, width=width, combine=combine, target=resolve_target())
    return tvm.compile(func.with_attr("global_symbol", "main"), target=resolve_target().tvm_target())["main"]


def check(a: CSR, b: np.ndarray, format: str, combine: str) -> None:
    operand = convert(format, a)
    out = tvm.runtime.tensor(np.full((a.shape[0], b.shape[1]), np.nan, np.float32))
    arguments = [tvm.runtime.tensor(np.ascontiguousarray(x)) for x in (*operand.params, b)]
    compiled(format, b.shape[1], combine)(*arguments, out)
    want = np.zeros_like(out.numpy())
    for row in np.flatnonzero(a.counts):
        at = slice(a.indptr[row], a.indptr[row + 1])
        want[row] = COMBINES[combine](a.data[at, None] * b[a.indices[at]], axis=0)
    np.testing.assert_array_equal(out.numpy(), want)


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("format", ["balanced", "csr"])
@pytest.mark.parametrize("width", [7, 16, 64, 272])  # no vector, one, as many as registers hold, more
def test_random_matrices(width: int, format: str, combine: str) -> None:
    rng = np.random.default_rng(width)
    for rows, columns, density in ((1, 1, 1.0), (9, 40, 0.1), (60, 5, 0.3), (30, 30, 0.0)):
        dense = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < density)
        dense[rows // 2] = rng.standard_normal(columns) if density else 0  # a row with all entries
        b = rng.standard_normal((columns, width), np.float32)
        check(CSR.from_dense(dense.astype(np.float32)), b, format, combine)


@pytest.mark.parametrize(("combine", "sign"), [("max", -1), ("min", 1)])
def test_zero_is_no_candidate(combine: str, sign: int) -> None:
    """Where all products are negative, so is their maximum; entries that are not stored do not count as 0."""
    a = CSR.from_dense(np.array([[1, 0, 2], [0, 0, 0], [0, 3, 0]], np.float32))
    b = sign * np.arange(1, 49, dtype=np.float32).reshape(3, 16)
    check(a, b, "balanced", combine)


def test_the_program_says_it_in_two_lines() -> None:
    m, n = tirx.Var("m", "int64"), tirx.Var("n", "int64")
    text = str(spmm_extreme(MATRIX_FORMATS["csr"].symbolic(m, n), m, n, 16, "max"))
    assert "spmm: for csr(i, j), k in 16: best[k] max= A[i, j] * B[j, k]" in text
    assert "put: for csr(i, j) to level 1" in text


@pytest.mark.parametrize(
    ("format", "combine", "message"),
    [
        ("coo", "max", "spmm by max over coo\n.*rows without entries are 0"),
        ("csr", "mean", "unknown combination 'mean'"),
    ],
)
def test_what_there_is_no_kernel_for(format: str, combine: str, message: str) -> None:
    with pytest.raises(SparseError, match=message):
        spmm(format=format, width=16, combine=combine, target=resolve_target())
    with pytest.raises(SparseError, match=message):
        spmm_of_tensors([], None, None, rows=3, format=format, combine=combine)  # refused before it looks at tensors
