"""Random matrices, and spmm and sddmm over every format of the library, compiled once: no schedule, the plain lowering."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from heddle.ir_passes.sparse.format import Format
from heddle.ir_passes.sparse.formats import CSR, LIBRARY, MATRIX_FORMATS, Operand
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.tensor import Tensor
from heddle.schedules.compat import tirx
from tests.sparse.tools import build, call

KINDS = ("uniform", "empty", "empty rows", "one dense row", "one entry", "full")


@st.composite
def matrices(draw: st.DrawFn, name: str) -> CSR:
    """Any matrix that the library format of this name can hold, integers from -8 to 8 as float32: sums are exact."""
    block = LIBRARY[name].params.get("block", 1)
    m, n = (block * draw(st.integers(0, 20 // block)) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    kind = draw(st.sampled_from(KINDS))
    keep = rng.random((m, n)) < draw(st.sampled_from([0.05, 0.3, 0.8]))
    if kind in ("empty", "one entry"):
        keep[:] = False
    if kind == "full":
        keep[:] = True
    if kind in ("empty rows", "one dense row"):
        keep[rng.random(m) < 0.6] = False
    if m and n:
        if kind == "one dense row":
            keep[rng.integers(m)] = True
        if kind == "one entry":
            keep[rng.integers(m), rng.integers(n)] = True
    if name == "band":
        if m and not n:
            return CSR.from_dense(np.zeros((0, 0), np.float32))
        params = LIBRARY[name].params
        distance = np.arange(n) - np.arange(m)[:, None]
        keep &= (distance >= -params["lower"]) & (distance <= params["upper"])
    values = rng.integers(1, 9, (m, n)) * rng.choice([-1, 1], (m, n))
    return CSR.from_dense((values * keep).astype(np.float32))


def members(name: str, a: CSR) -> list[Operand]:
    """A matrix in a format of the library, or as the members of a composition."""
    found = LIBRARY[name].convert(a, **LIBRARY[name].params)
    return found if isinstance(found, list) else [found]


def program(kind: str, fmt: Format, m: Any, n: Any) -> Program:
    """spmm, C = A @ B, or sddmm, Y = A * (X @ Z.T) on the entries of A; the number of dense columns is symbolic, too."""
    d = tirx.Var("d", "int64")
    i, j = coords("i j")
    k = coords("k")
    a = Tensor("A", (m, n), fmt)
    if kind == "spmm":
        b, c = Tensor("B", (n, d)), Tensor("C", (m, d))
        it = Iteration(kind, fmt, (i, j), {k: d}, c[i, k], a[i, j] * b[j, k], "sum")
        return Program(kind, (it,), (a, b, c), (*fmt.aux, a, b, c))
    x, z, y = Tensor("X", (m, d)), Tensor("Z", (n, d)), Tensor("Y", (m, n), fmt)
    it = Iteration(kind, fmt, (i, j), {k: d}, y[i, j], a[i, j] * x[i, k] * z[j, k], "sum")
    return Program(kind, (it,), (a, x, z, y), (*fmt.aux, a, x, z, y))


@functools.cache
def kernels(kind: str, name: str) -> list[Callable[..., None]]:
    """The kernel of every member: one compilation serves every matrix."""
    entry = LIBRARY[name]
    m, n = (tirx.Var(v, "int64") for v in "mn")
    found = entry.symbolic(m, n, **entry.params)
    made = [program(kind, fmt, m, n) for fmt in ([found] if name in MATRIX_FORMATS else found)]
    return list(map(build, made))


def spmm(name: str, operands: Sequence[Operand], b: np.ndarray) -> np.ndarray:
    """A @ b, the sum over the members."""
    shape = (operands[0].shape[0], b.shape[1])
    parts = [call(kernel, [*o.params, b], shape) for kernel, o in zip(kernels("spmm", name), operands, strict=True)]
    return np.sum(parts, axis=0)


def sddmm(name: str, operands: Sequence[Operand], x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """A * (x @ z.T) as a dense matrix, the sum over the members."""
    parts = []
    for kernel, o in zip(kernels("sddmm", name), operands, strict=True):
        values = call(kernel, [*o.params, x, z], o.values.shape)
        parts.append(Operand(o.fmt, o.arrays, values, o.shape).to_dense())
    return np.sum(parts, axis=0)
