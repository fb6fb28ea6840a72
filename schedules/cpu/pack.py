"""Rows packed for the many-row linear kernel, with RMSNorm on the way where the norm is the linear's only reader."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish
from ..layouts import rows as packed
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from . import norm


def _reference(x: np.ndarray, *gamma: np.ndarray, norm_eps: float | None, **_: Any) -> tuple[np.ndarray, ...]:
    return (packed.pack_rows(x if norm_eps is None else norm.reference(x, gamma[0], norm_eps)),)


def _inputs(rng: np.random.Generator, *, features: int, norm_eps: float | None, n: int, **_: Any) -> list[np.ndarray]:
    arrays = [rng.standard_normal((n, features), dtype=np.float32)]
    return arrays if norm_eps is None else [*arrays, rng.standard_normal(features, dtype=np.float32)]


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=lambda *, features, n, **_: Cost(bytes=8 * features * n, flops=0),
    tolerance=Tolerance(1e-6, "the fused norm's float32 sum of squares; without a norm the packing is exact"),
    cases=[
        Case({"features": 64, "norm_eps": None}, {"n": 24}),
        Case({"features": 37, "norm_eps": None}, {"n": 5}),
        Case({"features": 77, "norm_eps": 1e-6}, {"n": 31}),
    ],
)
def pack_rows(*, features: int, norm_eps: float | None, target: TargetProfile) -> PrimFunc:
    """x float32 [n, features] (and gamma float32 [features] with a norm) -> float32 [ceil(n / MR), features, MR].

    MR is `row_tile(target)`; rows past the last repeat it. With `norm_eps` the rows are normalised first, with the
    bits of `rms_norm`.
    """
    MR = packed.row_tile(target)
    with_norm = norm_eps is not None
    scale = norm.inverse_rms(features, 0.0 if norm_eps is None else norm_eps)

    @T.prim_func(private=True, s_tir=True)
    def pack(x_: T.handle, gamma_: T.handle, y_: T.handle):
        n = T.int64()
        tiles = T.int64()
        x = T.match_buffer(x_, (n, T.int64(features)), "float32", align=64)
        gamma = T.match_buffer(gamma_, (T.int64(features),), "float32", align=64)
        y = T.match_buffer(y_, (tiles, T.int64(features), T.int64(MR)), "float32", align=64)
        for tile in T.parallel(tiles):
            if with_norm:
                inverse = T.alloc_buffer((MR,), "float32", scope="global")
                for m in T.serial(T.int64(MR)):
                    scale(x, T.min(tile * MR + m, n - 1), inverse, m)
                for k in T.serial(T.int64(features)):
                    for m in T.unroll(MR):
                        y[tile, k, m] = x[T.min(tile * MR + m, n - 1), k] * inverse[m] * gamma[k]
            else:
                for k in T.serial(T.int64(features)):
                    for m in T.unroll(MR):
                        y[tile, k, m] = x[T.min(tile * MR + m, n - 1), k]

    if not with_norm:
        pack = PrimFunc([p for p in pack.params if p.name != "gamma"], pack.body, pack.ret_type, pack.attrs)
    return finish(pack)
