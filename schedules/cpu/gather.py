"""Rows picked by index: the hidden rows whose logits are wanted."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile


def _inputs(rng: np.random.Generator, *, features: int, n: int, r: int, **_: Any) -> list[np.ndarray]:
    return [rng.standard_normal((n, features), dtype=np.float32), rng.integers(0, n, r, dtype=np.int32)]


@kernel(
    reference=lambda x, rows, **_: (x[rows],),
    inputs=_inputs,
    cost=lambda *, features, r, **_: Cost(bytes=r * (8 * features + 4), flops=0),
    tolerance=Tolerance(0.0, "a copy"),
    cases=[Case({"features": 64}, {"n": 9, "r": 4}), Case({"features": 21}, {"n": 3, "r": 1})],
)
def gather_rows(*, features: int, target: TargetProfile) -> PrimFunc:
    """x float32 [n, features], rows int32 [r] in [0, n) -> float32 [r, features]."""

    @T.prim_func(private=True, s_tir=True)
    def gather(x_: T.handle, rows_: T.handle, y_: T.handle):
        n = T.int64()
        r = T.int64()
        x = T.match_buffer(x_, (n, T.int64(features)), "float32", align=64)
        rows = T.match_buffer(rows_, (r,), "int32")
        y = T.match_buffer(y_, (r, T.int64(features)), "float32", align=64)
        for i in T.parallel(r):
            row: T.let[T.int64] = T.cast(rows[i], "int64")
            for k in T.serial(T.int64(features)):
                y[i, k] = x[row, k]

    return finish(gather)
