"""Sums of rows: the unfused forms of the bias and residual epilogues, with the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, lanes

_EXACT = Tolerance(0.0, "one rounded addition")
_CASES = [Case({"features": 64}, {"n": 3}), Case({"features": 45}, {"n": 2}), Case({"features": 7}, {"n": 1})]


def _two_rows(rng: np.random.Generator, *, features: int, n: int, **_: Any) -> list[np.ndarray]:
    return [rng.standard_normal((n, features), dtype=np.float32) for _ in range(2)]


def _row_and_bias(rng: np.random.Generator, *, features: int, n: int, **_: Any) -> list[np.ndarray]:
    return [rng.standard_normal((n, features), dtype=np.float32), rng.standard_normal(features, dtype=np.float32)]


def _cost(*, features: int, n: int, **_: Any) -> Cost:
    return Cost(bytes=12 * n * features, flops=n * features)


@kernel(reference=lambda x, y, **_: (x + y,), inputs=_two_rows, cost=_cost, tolerance=_EXACT, cases=_CASES)
def add(*, features: int, target: TargetProfile) -> PrimFunc:
    """x, y float32 [n, features] -> x + y."""

    @T.prim_func(private=True, s_tir=True)
    def add_rows(x_: T.handle, y_: T.handle, out_: T.handle):
        n = T.int64()
        x = T.match_buffer(x_, (n, T.int64(features)), "float32", align=64)
        y = T.match_buffer(y_, (n, T.int64(features)), "float32", align=64)
        out = T.match_buffer(out_, (n, T.int64(features)), "float32", align=64)
        for row in T.parallel(n):
            for c in T.serial(T.int64(features // LANES)):
                out[row, lanes(c * LANES)] = x[row, lanes(c * LANES)] + y[row, lanes(c * LANES)]
            for j in T.serial(T.int64(features % LANES)):
                out[row, features - 1 - j] = x[row, features - 1 - j] + y[row, features - 1 - j]

    return finish(add_rows)


@kernel(reference=lambda x, bias, **_: (x + bias,), inputs=_row_and_bias, cost=_cost, tolerance=_EXACT, cases=_CASES)
def add_bias(*, features: int, target: TargetProfile) -> PrimFunc:
    """x float32 [n, features], bias float32 [features] -> x + bias."""

    @T.prim_func(private=True, s_tir=True)
    def add_to_rows(x_: T.handle, bias_: T.handle, out_: T.handle):
        n = T.int64()
        x = T.match_buffer(x_, (n, T.int64(features)), "float32", align=64)
        bias = T.match_buffer(bias_, (T.int64(features),), "float32", align=64)
        out = T.match_buffer(out_, (n, T.int64(features)), "float32", align=64)
        for row in T.parallel(n):
            for c in T.serial(T.int64(features // LANES)):
                out[row, lanes(c * LANES)] = x[row, lanes(c * LANES)] + bias[lanes(c * LANES)]
            for j in T.serial(T.int64(features % LANES)):
                out[row, features - 1 - j] = x[row, features - 1 - j] + bias[features - 1 - j]

    return finish(add_to_rows)
