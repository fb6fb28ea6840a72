"""Elementwise kernels: the unfused forms of the linear epilogues, with the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, const, lanes, silu
from .reference import silu as silu_reference

_EXACT = Tolerance(0.0, "one rounded addition")
_CASES = [Case({"features": 64}, {"n": 3}), Case({"features": 45}, {"n": 2}), Case({"features": 7}, {"n": 1})]


def _two_rows(rng: np.random.Generator, *, features: int, n: int, **_: Any) -> list[np.ndarray]:
    return [rng.standard_normal((n, features), dtype=np.float32) for _ in range(2)]


def _row_and_bias(rng: np.random.Generator, *, features: int, n: int, **_: Any) -> list[np.ndarray]:
    return [rng.standard_normal((n, features), dtype=np.float32), rng.standard_normal(features, dtype=np.float32)]


def _row(rng: np.random.Generator, *, features: int, n: int, **_: Any) -> list[np.ndarray]:
    return [rng.standard_normal((n, features), dtype=np.float32)]


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


@kernel(
    reference=lambda x, **_: (np.maximum(x, 0),),
    inputs=_row,
    cost=lambda *, features, n, **_: Cost(bytes=8 * n * features, flops=n * features),
    tolerance=Tolerance(0.0, "values are moved or 0"),
    cases=_CASES,
)
def relu(*, features: int, target: TargetProfile) -> PrimFunc:
    """x float32 [n, features] -> max(x, 0)."""

    @T.prim_func(private=True, s_tir=True)
    def relu_rows(x_: T.handle, out_: T.handle):
        n = T.int64()
        x = T.match_buffer(x_, (n, T.int64(features)), "float32", align=64)
        out = T.match_buffer(out_, (n, T.int64(features)), "float32", align=64)
        for row in T.parallel(n):
            for c in T.serial(T.int64(features // LANES)):
                out[row, lanes(c * LANES)] = T.max(x[row, lanes(c * LANES)], const(0.0))
            for j in T.serial(T.int64(features % LANES)):
                out[row, features - 1 - j] = T.max(x[row, features - 1 - j], T.float32(0))

    return finish(relu_rows)


@kernel(
    reference=lambda gate, up, **_: ((silu_reference(gate.astype(np.float64)) * up).astype(np.float32),),
    inputs=_two_rows,
    cost=_cost,
    tolerance=Tolerance(1e-6, "the polynomial of exp, relative error below 3e-7"),
    cases=_CASES,
)
def silu_mul(*, features: int, target: TargetProfile) -> PrimFunc:
    """gate, up float32 [n, features] -> silu(gate) * up."""
    whole = features // LANES * LANES

    @T.prim_func(private=True, s_tir=True)
    def silu_rows(gate_: T.handle, up_: T.handle, out_: T.handle):
        n = T.int64()
        gate = T.match_buffer(gate_, (n, T.int64(features)), "float32", align=64)
        up = T.match_buffer(up_, (n, T.int64(features)), "float32", align=64)
        out = T.match_buffer(out_, (n, T.int64(features)), "float32", align=64)
        for row in T.parallel(n):
            for c in T.serial(T.int64(features // LANES)):
                out[row, lanes(c * LANES)] = silu(gate[row, lanes(c * LANES)]) * up[row, lanes(c * LANES)]
            if whole < features:
                tail = T.alloc_buffer((LANES,), "float32", scope="global")
                tail[lanes(0)] = const(0.0)
                for j in T.serial(T.int64(features - whole)):
                    tail[j] = gate[row, whole + j]
                tail[lanes(0)] = silu(tail[lanes(0)])
                for j in T.serial(T.int64(features - whole)):
                    out[row, whole + j] = tail[j] * up[row, whole + j]

    return finish(silu_rows)
