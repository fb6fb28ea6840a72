"""Queries that grow with the logarithm of their position, which keeps attention sharp in long contexts (Llama 4, Ministral 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, fma1, lanes
from .spans import full


def _reference(x: np.ndarray, positions: np.ndarray, *, beta: float, length: int, **_: Any) -> tuple[np.ndarray]:
    steps = (positions // length).astype(np.float32)
    return (x * (1 + np.float32(beta) * np.log(1 + steps))[:, None],)


def _inputs(rng: np.random.Generator, *, features: int, n: int, **_: Any) -> list[np.ndarray]:
    return [rng.standard_normal((n, features), dtype=np.float32), rng.integers(0, 5000, n, np.int32)]


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=lambda *, features, n, **_: Cost(bytes=8 * n * features, flops=n * features),
    tolerance=Tolerance(1e-6, "libm's logf"),
    cases=[
        Case({"features": f, "beta": beta, "length": length}, {"n": n})
        for f, beta, length, n in ((64, 0.1, 16, 3), (45, 0.5, 1000, 4), (7, 0.1, 8192, 1))
    ],
)
def query_scale(*, features: int, beta: float, length: int, target: TargetProfile) -> PrimFunc:
    """x float32 [n, features], positions int32 [n] -> x * (1 + beta * log(1 + position // length))."""

    @T.prim_func(private=True, s_tir=True)
    def scale_rows(x_: T.handle, positions_: T.handle, out_: T.handle):
        n = T.int64()
        x = T.match_buffer(x_, (n, T.int64(features)), "float32", align=64)
        positions = T.match_buffer(positions_, (n,), "int32")
        out = T.match_buffer(out_, (n, T.int64(features)), "float32", align=64)
        for row in T.parallel(n):
            steps: T.let[T.float32] = T.cast(positions[row] // length, "float32")
            factor: T.let[T.float32] = fma1(T.float32(beta), T.log(T.float32(1) + steps), T.float32(1))
            for c in T.serial(T.int64(features // LANES)):
                out[row, lanes(c * LANES)] = x[row, lanes(c * LANES)] * full(factor, LANES)
            for j in T.serial(T.int64(features % LANES)):
                out[row, features - 1 - j] = x[row, features - 1 - j] * factor

    return finish(scale_rows)
