"""RMSNorm with a summation order that depends on the row's length alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish
from ..emit import local, serial, store
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, const, fma, fma1, lanes, splat

SERIAL = 8192  # elements that one thread normalises sooner than it wakes the others (1 to 10 microseconds)


def inverse_rms(features: int, eps: float) -> Callable[..., None]:
    """Emit `inverse_rms(x, row, out, i)`: out[i] = 1 / sqrt(mean(x[row] ** 2) + eps).

    Lane l sums the squares of elements l, l + 16, ... in ascending order by fma; then halves are added: 16, 8, 4, 2, 1.
    """
    whole = features // LANES * LANES

    def statement(x: Any, row: Any, out: Any, i: Any) -> None:
        s = local("squares", (LANES,), registers=True)
        store(s, lanes(0), const(0.0))
        with serial(T.int64(features // LANES), "c") as c:
            store(s, lanes(0), fma(x[row, lanes(c * LANES)], x[row, lanes(c * LANES)], s[lanes(0)]))
        for j in range(features - whole):
            store(s, j, fma1(x[row, whole + j], x[row, whole + j], s[j]))
        for half in (8, 4, 2):
            store(s, lanes(0, half), s[lanes(0, half)] + s[lanes(half, half)])
        store(out, i, T.float32(1.0) / T.sqrt(fma1(s[0] + s[1], T.float32(1.0 / features), T.float32(eps))))

    return statement


def reference(x: np.ndarray, gamma: np.ndarray, eps: float) -> np.ndarray:
    """RMSNorm in float64, rounded once."""
    wide = x.astype(np.float64)
    return (wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + eps) * gamma).astype(np.float32)


def _inputs(rng: np.random.Generator, *, features: int, n: int, **_: Any) -> list[np.ndarray]:
    return [rng.standard_normal((n, features), dtype=np.float32), rng.standard_normal(features, dtype=np.float32)]


@kernel(
    reference=lambda x, gamma, *, eps, **_: (reference(x, gamma, eps),),
    inputs=_inputs,
    cost=lambda *, features, n, **_: Cost(bytes=4 * features * (2 * n + 1), flops=4 * n * features),
    tolerance=Tolerance(1e-6, "a float32 sum of squares in 16 chains"),
    cases=[
        Case({"features": 64, "eps": 1e-6}, {"n": 3}),
        Case({"features": 77, "eps": 1e-5}, {"n": 1}),
        Case({"features": 9, "eps": 1e-5}, {"n": 2}),
        Case({"features": 600, "eps": 1e-5}, {"n": 20}),
    ],
)
def rms_norm(*, features: int, eps: float, target: TargetProfile) -> PrimFunc:
    """x float32 [n, features], gamma float32 [features] -> x * (1 / sqrt(mean(x^2) + eps)) * gamma, [n, features]."""
    scale = inverse_rms(features, eps)
    whole = features // LANES * LANES

    @T.inline
    def one_row(x, gamma, y, row):
        inverse = T.alloc_buffer((1,), "float32", scope="global")
        scale(x, row, inverse, 0)
        for c in T.serial(T.int64(features // LANES)):
            y[row, lanes(c * LANES)] = x[row, lanes(c * LANES)] * splat(inverse[0]) * gamma[lanes(c * LANES)]
        for j in T.serial(T.int64(features - whole)):
            y[row, whole + j] = x[row, whole + j] * inverse[0] * gamma[whole + j]

    @T.prim_func(private=True, s_tir=True)
    def norm(x_: T.handle, gamma_: T.handle, y_: T.handle):
        n = T.int64()
        x = T.match_buffer(x_, (n, T.int64(features)), "float32", align=64)
        gamma = T.match_buffer(gamma_, (T.int64(features),), "float32", align=64)
        y = T.match_buffer(y_, (n, T.int64(features)), "float32", align=64)
        if n * features <= SERIAL:
            for row in T.serial(n):
                one_row(x, gamma, y, row)
        else:
            for row in T.parallel(n):
                one_row(x, gamma, y, row)

    return finish(norm)
