"""Programs that the tests of the rewrites share, with what they mean in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heddle.ir_passes.sparse.format import Format
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.tensor import Tensor
from heddle.schedules.compat import T, tirx, tvm

TINY = 1e-30  # what a softmax over no entries is divided by


def variables(names: str) -> list[Any]:
    """Extents that data decides."""
    return [tirx.Var(name, "int64") for name in names.split()]


def spmm(fmt: Format, m: Any, n: Any, d: Any = 8, combine: str = "sum", **options: Any) -> Program:
    """C[i, k] combine= A[i, j] * B[j, k]."""
    i, j = coords("i j")
    k = coords("k")
    a, b, c = Tensor("A", (m, n), fmt), Tensor("B", (n, d)), Tensor("C", (m, d))
    it = Iteration("spmm", fmt, (i, j), {k: d}, c[i, k], a[i, j] * b[j, k], combine, **options)
    return Program("spmm", (it,), (a, b, c), (*fmt.aux, a, b, c))


def attention(fmt: Format, lengths: Sequence[Any], d: int = 8, levels: int = 1) -> Program:
    """Softmax attention on the entries of a format in six steps over it: coordinates (i, j), or (h, i, j) for each head.

    Parameters: arrays of the format, Q, K, V [..., d], then the intermediates S, M, P, L, O, then the result Y.
    """
    *heads, m, n = lengths
    q, k, v = (Tensor(name, (*heads, side, d)) for name, side in (("Q", m), ("K", n), ("V", n)))
    s, p = Tensor("S", (*heads, m, n), fmt), Tensor("P", (*heads, m, n), fmt)
    top, total = Tensor("M", (*heads, m)), Tensor("L", (*heads, m))
    o, y = Tensor("O", (*heads, m, d)), Tensor("Y", (*heads, m, d))
    at = coords("h i j") if heads else coords("i j")
    h, i, j = at[:-2], at[-2], at[-1]
    c, z = coords("c"), coords("z")
    row = (*h, i)

    def step(
        name: str, out: Any, value: Any, combine: str | None = None, free: Any = None, **options: Any
    ) -> Iteration:
        return Iteration(name, fmt, at, free or {}, out, value, combine, **options)

    steps = (
        step("score", s[(*h, i, j)], q[(*row, z)] * k[(*h, j, z)], "sum", {z: d}),
        step("top", top[row], s[(*h, i, j)], "max"),
        step("weight", p[(*h, i, j)], tirx.exp(s[(*h, i, j)] - top[row])),
        step("total", total[row], p[(*h, i, j)], "sum"),
        step("mix", o[(*row, c)], p[(*h, i, j)] * v[(*h, j, c)], "sum", {c: d}),
        step("norm", y[(*row, c)], o[(*row, c)] / T.max(total[row], T.float32(TINY)), free={c: d}, depth=levels),
    )
    tensors = (q, k, v, s, top, p, total, o, y)
    return Program("attention", steps, tensors, (*fmt.aux, *tensors))


STEPS = ("score", "top", "weight", "total", "mix", "norm")


def softmax_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What `attention` means: rows without entries give 0."""
    scores = np.einsum("...id,...jd->...ij", q, k, dtype=np.float64)
    top = np.max(scores, -1, initial=-1e30, where=mask, keepdims=True)
    weights = np.where(mask, np.exp(np.where(mask, scores - top, 0)), 0)
    total = np.maximum(weights.sum(-1, keepdims=True), TINY)
    return np.einsum("...ij,...jd->...id", weights / total, v)


def assert_same_lowering(found: Program, expected: Program) -> None:
    """Both programs lower to the same function."""
    tvm.ir.assert_structural_equal(lower(found), lower(expected), map_free_vars=True)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)
