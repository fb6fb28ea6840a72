"""Rows packed for the many-row linear kernel, with a norm on the way where the norm is the linear's only reader."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish
from ..layouts import rows as packed
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import LANES, Vec, lanes
from .norm import Norm


def interleaved(a: Vec, b: Vec, n: int) -> Vec:
    """a0 b0 a1 b1 ... of two vectors of n elements."""
    return T.call_llvm_pure_intrin(f"float32x{2 * n}", "llvm.vector.interleave2", a, b)


def transposed(rows: Any, first: Any) -> Vec:
    """4 rows of 16 elements as 16 columns of 4. Left to itself LLVM scatters single elements, several times slower."""
    even = interleaved(rows[first, lanes(0)], rows[first + 2, lanes(0)], LANES)
    odd = interleaved(rows[first + 1, lanes(0)], rows[first + 3, lanes(0)], LANES)
    return interleaved(even, odd, 2 * LANES)


def _reference(x: np.ndarray, *operands: np.ndarray, norm: Norm | None, **_: Any) -> tuple[np.ndarray, ...]:
    return (packed.pack_rows(x if norm is None else norm.reference(x, *operands)),)


def _inputs(rng: np.random.Generator, *, features: int, norm: Norm | None, n: int, **_: Any) -> list[np.ndarray]:
    vectors = [rng.standard_normal(features, dtype=np.float32) for _ in (norm.operands if norm else ())]
    return [rng.standard_normal((n, features), dtype=np.float32), *vectors]


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=lambda *, features, n, **_: Cost(bytes=8 * features * n, flops=0),
    tolerance=Tolerance(1e-6, "the fused norm's float32 sums; without a norm the packing is exact"),
    cases=[
        Case({"features": 64, "norm": None}, {"n": 24}),
        Case({"features": 37, "norm": None}, {"n": 5}),
        Case({"features": 77, "norm": Norm("rms", 77, 1e-6)}, {"n": 31}),
        Case({"features": 77, "norm": Norm("layer", 77, 1e-5)}, {"n": 31}),
        Case({"features": 64, "norm": Norm("layer", 64, 1e-5, bias=True)}, {"n": 13}),
    ],
)
def pack_rows(*, features: int, norm: Norm | None, target: TargetProfile) -> PrimFunc:
    """x float32 [n, features] (and the norm's operands [features]) -> float32 [ceil(n / MR), features, MR].

    MR is `row_tile(target)`; rows past the last repeat it. With a norm the rows are normalised first, with the bits of
    `rms_norm` or `layer_norm`.
    """
    MR = packed.row_tile(target)
    operands = () if norm is None else norm.operands
    whole = features // LANES * LANES

    def measure(x: Any, row: Any, inverse: Any, mean: Any, m: Any) -> None:
        if norm is not None:
            norm.statistics(x, row, T.int64(0), inverse, mean, m)

    def normal(x: Any, row: Any, k: Any, n: int, stats: Any, vectors: Any) -> Any:
        """n elements of a row from k on; `stats` are its inverse and mean, `vectors` weight and bias."""
        at = lanes(k, n) if n > 1 else k
        if norm is None:
            return x[row, at]
        inverse, mean = stats
        return norm.apply(x[row, at], inverse, mean, vectors[0][at], vectors[1][at] if norm.bias else None, n)

    @T.prim_func(private=True, s_tir=True)
    def pack(x_: T.handle, weight_: T.handle, bias_: T.handle, y_: T.handle):
        n = T.int64()
        tiles = T.int64()
        x = T.match_buffer(x_, (n, T.int64(features)), "float32", align=64)
        weight = T.match_buffer(weight_, (T.int64(features),), "float32", align=64)
        bias = T.match_buffer(bias_, (T.int64(features),), "float32", align=64)
        y = T.match_buffer(y_, (tiles, T.int64(features), T.int64(MR)), "float32", align=64)
        for tile in T.parallel(tiles):
            inverse = T.alloc_buffer((MR,), "float32", scope="global")
            mean = T.alloc_buffer((MR,), "float32", scope="global")
            if norm is not None:
                for m in T.serial(T.int64(MR)):
                    measure(x, T.min(tile * MR + m, n - 1), inverse, mean, m)
            for c in T.serial(T.int64(features // LANES)):
                rows = T.alloc_buffer((MR, LANES), "float32", scope="global")
                columns = T.alloc_buffer((4 * LANES,), "float32", scope="global")
                for m in T.unroll(MR):
                    rows[m, lanes(0)] = normal(
                        x, T.min(tile * MR + m, n - 1), c * LANES, LANES, (inverse[m], mean[m]), (weight, bias)
                    )
                for m in T.unroll(MR // 4):
                    columns[lanes(0, 4 * LANES)] = transposed(rows, m * 4)
                    for k in T.unroll(LANES):
                        y[tile, c * LANES + k, lanes(m * 4, 4)] = columns[lanes(k * 4, 4)]
            for k in T.serial(T.int64(features - whole)):
                for m in T.serial(T.int64(MR)):
                    y[tile, whole + k, m] = normal(
                        x, T.min(tile * MR + m, n - 1), whole + k, 1, (inverse[m], mean[m]), (weight, bias)
                    )

    params = [p for p in pack.params if p.name not in {"weight", "bias"} - set(operands)]
    return finish(PrimFunc(params, pack.body, pack.ret_type, pack.attrs))
