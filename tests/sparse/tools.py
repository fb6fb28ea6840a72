"""Programs as compiled code by the plain lowering, and matrices to run them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from heddle.ir_passes.sparse.formats import CSR
from heddle.ir_passes.sparse.iteration import Program
from heddle.ir_passes.sparse.lowering import decompose_inits, lower
from heddle.schedules.compat import s_tir, tvm


def build(program: Program) -> Callable[..., None]:
    """A program as compiled code, without any schedule."""
    sch = s_tir.Schedule(lower(program))
    return tvm.compile(decompose_inits(sch).mod, target="llvm")[program.name]


def call(kernel: Callable[..., None], inputs: Sequence[np.ndarray], out_shape: tuple[int, ...]) -> np.ndarray:
    """Run a kernel whose last argument is its float32 output, which begins as NaN."""
    out = tvm.runtime.tensor(np.full(out_shape, np.nan, np.float32))
    kernel(*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in inputs], out)
    return out.numpy()


def random_matrix(rng: np.random.Generator, m: int, n: int, density: float, kind: str = "uniform") -> CSR:
    """A random matrix; `rows` has many empty rows and one dense row."""
    keep = rng.random((m, n)) < density
    if kind == "rows":
        keep[rng.random(m) < 0.6] = False
        keep[rng.integers(m)] = True
    return CSR.from_dense((rng.standard_normal((m, n)) * keep).astype(np.float32))
