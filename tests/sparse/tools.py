"""Programs for tests, compiled once for each format by the plain lowering, without a schedule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from heddle.ir_passes.sparse.format import Format
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.library import CSR, MATRIX_FORMATS, Operand
from heddle.ir_passes.sparse.lowering import decompose_inits, lower
from heddle.ir_passes.sparse.tensor import Tensor
from heddle.schedules.compat import s_tir, tirx, tvm


def build(program: Program) -> Callable[..., None]:
    """A program as compiled code, without any schedule."""
    sch = s_tir.Schedule(lower(program))
    return tvm.compile(decompose_inits(sch).mod, target="llvm")[program.name]


def spmm(fmt: Format, m: Any, n: Any, order: tuple[str, ...] | None = None) -> Program:
    """C[i, k] = sum over j of A[i, j] * B[j, k]; all extents symbolic."""
    d = tirx.Var("d", "int64")
    i, j = coords("i j")
    k = coords("k")
    A, B, C = Tensor("A", (m, n), fmt), Tensor("B", (n, d)), Tensor("C", (m, d))
    it = Iteration("spmm", fmt, (i, j), {k: d}, C[i, k], A[i, j] * B[j, k], "sum", order)
    return Program("spmm", (it,), (A, B, C), (*fmt.aux, A, B, C))


def sddmm(fmt: Format, m: Any, n: Any) -> Program:
    """Y[i, j] = A[i, j] * sum over k of X[i, k] * Z[j, k] on the entries of A; all extents symbolic."""
    d = tirx.Var("d", "int64")
    i, j = coords("i j")
    k = coords("k")
    A, Y, X, Z = Tensor("A", (m, n), fmt), Tensor("Y", (m, n), fmt), Tensor("X", (m, d)), Tensor("Z", (n, d))
    it = Iteration("sddmm", fmt, (i, j), {k: d}, Y[i, j], A[i, j] * X[i, k] * Z[j, k], "sum")
    return Program("sddmm", (it,), (A, X, Z, Y), (*fmt.aux, A, X, Z, Y))


@functools.cache
def library_kernel(kind: str, name: str) -> Callable[..., None]:
    """spmm or sddmm over a format of the library: one compilation serves every matrix."""
    m, n = tirx.Var("m", "int64"), tirx.Var("n", "int64")
    fmt = MATRIX_FORMATS[name].symbolic(m, n, **compiled(name))
    return build({"spmm": spmm, "sddmm": sddmm}[kind](fmt, m, n))


PARAMS: dict[str, dict[str, int]] = {"bsr": {"block": 3}, "band": {"lower": 5, "upper": 5}}
"""Parameters of formats that are compiled in."""


def compiled(name: str) -> dict[str, int]:
    """The parameters of a format that its kernels are compiled for."""
    return PARAMS.get(name, {})


def convert(name: str, a: CSR) -> Operand:
    """A matrix in a format of the library."""
    extra = {"items": 3} if name == "balanced" else {}
    return MATRIX_FORMATS[name].convert(a, **extra, **compiled(name))


def call(kernel: Callable[..., None], inputs: Sequence[np.ndarray], out_shape: tuple[int, ...]) -> np.ndarray:
    """Run a kernel whose last argument is its float32 output, which begins as NaN."""
    out = tvm.runtime.tensor(np.full(out_shape, np.nan, np.float32))
    kernel(*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in inputs], out)
    return out.numpy()


def random_matrix(rng: np.random.Generator, m: int, n: int, density: float, kind: str = "uniform") -> CSR:
    """A random matrix; `rows` has many empty rows and one dense row, `band` lies within 5 diagonals."""
    keep = rng.random((m, n)) < density
    if kind == "rows":
        keep[rng.random(m) < 0.6] = False
        keep[rng.integers(m)] = True
    if kind == "band":
        keep &= np.abs(np.arange(m)[:, None] - np.arange(n)) <= 5
    return CSR.from_dense((rng.standard_normal((m, n)) * keep).astype(np.float32))
