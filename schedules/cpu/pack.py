"""Rows packed for the many-row linear kernel, with RMSNorm on the way where the norm is the linear's only reader."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish
from ..layouts import rows as packed
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, Vec, lanes, splat
from . import norm


def interleaved(a: Vec, b: Vec, n: int) -> Vec:
    """a0 b0 a1 b1 ... of two vectors of n elements."""
    return T.call_llvm_pure_intrin(f"float32x{2 * n}", "llvm.vector.interleave2", a, b)


def transposed(rows: Any, first: Any) -> Vec:
    """4 rows of 16 elements as 16 columns of 4. Left to itself LLVM scatters single elements, several times slower."""
    even = interleaved(rows[first, lanes(0)], rows[first + 2, lanes(0)], LANES)
    odd = interleaved(rows[first + 1, lanes(0)], rows[first + 3, lanes(0)], LANES)
    return interleaved(even, odd, 2 * LANES)


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
    whole = features // LANES * LANES

    @T.prim_func(private=True, s_tir=True)
    def pack(x_: T.handle, gamma_: T.handle, y_: T.handle):
        n = T.int64()
        tiles = T.int64()
        x = T.match_buffer(x_, (n, T.int64(features)), "float32", align=64)
        gamma = T.match_buffer(gamma_, (T.int64(features),), "float32", align=64)
        y = T.match_buffer(y_, (tiles, T.int64(features), T.int64(MR)), "float32", align=64)
        for tile in T.parallel(tiles):
            inverse = T.alloc_buffer((MR,), "float32", scope="global")
            if with_norm:
                for m in T.serial(T.int64(MR)):
                    scale(x, T.min(tile * MR + m, n - 1), inverse, m)
            for c in T.serial(T.int64(features // LANES)):
                rows = T.alloc_buffer((MR, LANES), "float32", scope="global")
                columns = T.alloc_buffer((4 * LANES,), "float32", scope="global")
                for m in T.unroll(MR):
                    if with_norm:
                        rows[m, lanes(0)] = (
                            x[T.min(tile * MR + m, n - 1), lanes(c * LANES)]
                            * splat(inverse[m])
                            * gamma[lanes(c * LANES)]
                        )
                    else:
                        rows[m, lanes(0)] = x[T.min(tile * MR + m, n - 1), lanes(c * LANES)]
                for m in T.unroll(MR // 4):
                    columns[lanes(0, 4 * LANES)] = transposed(rows, m * 4)
                    for k in T.unroll(LANES):
                        y[tile, c * LANES + k, lanes(m * 4, 4)] = columns[lanes(k * 4, 4)]
            for k in T.serial(T.int64(features - whole)):
                for m in T.serial(T.int64(MR)):
                    if with_norm:
                        y[tile, whole + k, m] = (
                            x[T.min(tile * MR + m, n - 1), whole + k] * inverse[m] * gamma[whole + k]
                        )
                    else:
                        y[tile, whole + k, m] = x[T.min(tile * MR + m, n - 1), whole + k]

    if not with_norm:
        pack = PrimFunc([p for p in pack.params if p.name != "gamma"], pack.body, pack.ret_type, pack.attrs)
    return finish(pack)
