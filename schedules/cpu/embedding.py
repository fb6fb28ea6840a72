"""Token embedding: rows of a table widened to float32, from a plain table or from the packed weight of a tied head."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compat import PrimFunc, T, finish
from ..layouts import tile32
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import storage, widen
from . import reference


def _inputs(
    rng: np.random.Generator, *, features: int, table_dtype: str, packed: bool, n: int, vocab: int, **_: Any
) -> list[np.ndarray]:
    table = reference.narrow(rng.standard_normal((vocab, features), dtype=np.float32), table_dtype)
    return [rng.integers(0, vocab, n, dtype=np.int32), tile32.pack(table) if packed else table]


def _reference(
    ids: np.ndarray, table: np.ndarray, *, table_dtype: str, packed: bool, **_: Any
) -> tuple[np.ndarray, ...]:
    rows = table[ids // tile32.TILE, :, ids % tile32.TILE] if packed else table[ids]
    return (reference.widen(np.ascontiguousarray(rows), table_dtype),)


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=lambda *, features, table_dtype, n, **_: Cost(
        bytes=n * (4 + features * (4 + reference.itemsize(table_dtype))), flops=0
    ),
    tolerance=Tolerance(0.0, "widening is exact"),
    cases=[
        Case({"features": features, "table_dtype": dtype, "packed": packed}, {"n": 5, "vocab": 70})
        for features, dtype in ((64, "float32"), (37, "float16"), (48, "bfloat16"))
        for packed in (False, True)
    ],
)
def embedding(*, features: int, table_dtype: str, packed: bool, target: TargetProfile) -> PrimFunc:
    """ids int32 [n] in [0, V), table [V, features] or tile32 [ceil(V / 32), features, 32] -> float32 [n, features]."""
    H = features

    if packed:

        @T.prim_func(private=True, s_tir=True)
        def from_tiles(ids_: T.handle, table_: T.handle, y_: T.handle):
            n = T.int64()
            tiles = T.int64()
            ids = T.match_buffer(ids_, (n,), "int32")
            table = T.match_buffer(table_, (tiles, T.int64(H), T.int64(tile32.TILE)), storage(table_dtype), align=64)
            y = T.match_buffer(y_, (n, T.int64(H)), "float32", align=64)
            for i in T.parallel(n):
                row: T.let[T.int64] = T.cast(ids[i], "int64")
                for k in T.serial(T.int64(H)):
                    y[i, k] = widen(table[row // tile32.TILE, k, row % tile32.TILE], table_dtype, 1)

        return finish(from_tiles)

    @T.prim_func(private=True, s_tir=True)
    def from_rows(ids_: T.handle, table_: T.handle, y_: T.handle):
        n = T.int64()
        vocab = T.int64()
        ids = T.match_buffer(ids_, (n,), "int32")
        table = T.match_buffer(table_, (vocab, T.int64(H)), storage(table_dtype), align=64)
        y = T.match_buffer(y_, (n, T.int64(H)), "float32", align=64)
        for i in T.parallel(n):
            row: T.let[T.int64] = T.cast(ids[i], "int64")
            for k in T.serial(T.int64(H)):
                y[i, k] = widen(table[row, k], table_dtype, 1)

    return finish(from_rows)
