"""Programs for tests, compiled once for each format by the plain lowering, without a schedule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from heddle.ir_passes.sparse.expr import free_vars
from heddle.ir_passes.sparse.format import Format, symbols
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.library import CSR, LIBRARY
from heddle.ir_passes.sparse.lowering import decompose_inits, lower
from heddle.ir_passes.sparse.tensor import Tensor
from heddle.schedules.compat import s_tir, tirx, tvm


def build(program: Program) -> Callable[..., None]:
    """A program as compiled code, without any schedule."""
    sch = s_tir.Schedule(lower(program))
    return tvm.compile(decompose_inits(sch).mod, target="llvm")[program.name]


def extents(fmt: Format) -> tuple[Any, Any]:
    """The variables m and n of a library format with symbolic extents."""
    found = {str(v.name): v for level in fmt.levels for v in free_vars(level.length)}
    n = found.get("n", tirx.Var("n", "int64"))
    if fmt.name == "band":
        point = symbols(fmt.levels)
        n = next(v for v in free_vars(fmt.coords(*point)[1]) if v.name == "n")
    return found["m"], n


def spmm(fmt: Format, order: tuple[str, ...] | None = None) -> Program:
    """C[i, k] = sum over j of A[i, j] * B[j, k]; all extents symbolic."""
    m, n = extents(fmt)
    d = tirx.Var("d", "int64")
    i, j = coords("i j")
    k = coords("k")
    A, B, C = Tensor("A", (m, n), fmt), Tensor("B", (n, d)), Tensor("C", (m, d))
    it = Iteration("spmm", fmt, (i, j), {k: d}, C[i, k], A[i, j] * B[j, k], "sum", order)
    return Program("spmm", (it,), (A, B, C), (*fmt.aux, A, B, C))


def sddmm(fmt: Format) -> Program:
    """Y[i, j] = A[i, j] * sum over k of X[i, k] * Z[j, k] on the entries of A; all extents symbolic."""
    m, n = extents(fmt)
    d = tirx.Var("d", "int64")
    i, j = coords("i j")
    k = coords("k")
    A, Y, X, Z = Tensor("A", (m, n), fmt), Tensor("Y", (m, n), fmt), Tensor("X", (m, d)), Tensor("Z", (n, d))
    it = Iteration("sddmm", fmt, (i, j), {k: d}, Y[i, j], A[i, j] * X[i, k] * Z[j, k], "sum")
    return Program("sddmm", (it,), (A, X, Z, Y), (*fmt.aux, A, X, Z, Y))


@functools.cache
def library_kernel(kind: str, name: str) -> Callable[..., None]:
    """spmm or sddmm over a format of the library: one compilation serves every matrix."""
    return build({"spmm": spmm, "sddmm": sddmm}[kind](LIBRARY[name].symbolic()))


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
