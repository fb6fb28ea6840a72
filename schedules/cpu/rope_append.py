"""The rotation of queries and keys fused with writing keys and values into the paged cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.plans import PAGE, PlanLayout
from ..compat import PrimFunc, T, finish
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import IN_REGISTERS, storage
from .kv_append import SMALL, append_inputs, append_reference
from .kv_cache import append_row, record
from .reference import itemsize
from .rope import random_table, rope_reference, rotation


def _rope_append_reference(
    qkv: np.ndarray,
    table: np.ndarray,
    plan: np.ndarray,
    cache: np.ndarray,
    layer: np.int64,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    **params: Any,
) -> tuple[np.ndarray, np.ndarray]:
    q, k, v = np.split(qkv, [heads * head_dim, (heads + kv_heads) * head_dim], axis=1)
    (q,) = rope_reference(q, table, heads=heads, head_dim=head_dim, **params)
    (k,) = rope_reference(k, table, heads=kv_heads, head_dim=head_dim, **params)
    (new,) = append_reference(k, v, plan, cache, layer, kv_heads=kv_heads, head_dim=head_dim, **params)
    return new, q


def _rope_append_inputs(
    rng: np.random.Generator, *, heads: int, kv_heads: int, head_dim: int, rotary_dim: int, **rest: Any
) -> list[np.ndarray]:
    k, v, plan, cache, layer = append_inputs(rng, kv_heads=kv_heads, head_dim=head_dim, **rest)
    q = rng.standard_normal((len(k), heads * head_dim), np.float32)
    return [np.concatenate([q, k, v], 1), random_table(rng, len(k), rotary_dim), plan, cache, layer]


@kernel(
    reference=_rope_append_reference,
    inputs=_rope_append_inputs,
    cost=lambda *, heads, kv_heads, head_dim, kv_dtype, seqs, new, **_: Cost(
        bytes=seqs * new * head_dim * (8 * heads + 2 * kv_heads * (4 + itemsize(kv_dtype))),
        flops=3 * seqs * new * head_dim * (heads + kv_heads),
    ),
    tolerance=Tolerance(1e-6, "the reference rounds its fma twice"),
    cases=[
        Case(
            {**SMALL, "heads": 6, "head_dim": d, "rotary_dim": r, "kv_dtype": t, "interleaved": i},
            {"seqs": s, "start": 9, "new": new},
        )
        for d, r, t, i, s, new in (
            (64, 64, "float32", False, 2, 20),
            (80, 40, "float16", False, 1, 1),
            (32, 32, "bfloat16", True, 3, 5),
        )
    ],
    inplace=(3,),
)
def rope_append(
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    rotary_dim: int,
    kv_dtype: str,
    max_tokens: int,
    max_seqs: int,
    interleaved: bool = False,
    target: TargetProfile,
) -> PrimFunc:
    """qkv float32 [n, q | k | v], table, plan, cache, layer -> cache in place, q float32 [n, heads * head_dim] rotated.

    The same bits as splitting, `rope` on q and k, and `kv_append`.
    """
    slots, size = PlanLayout(max_tokens, max_seqs).slot, record(head_dim, head_dim, kv_dtype)
    rotate = rotation(rotary_dim, head_dim, interleaved)
    put_key, put_value = append_row(head_dim, head_dim, kv_dtype)

    @T.prim_func(private=True, s_tir=True)
    def append_rows(qkv_: T.handle, table_: T.handle, plan_: T.handle, cache_: T.handle, layer: T.int64, q_: T.handle):
        n, p, pages = T.int64(), T.int64(), T.int64()
        qkv = T.match_buffer(qkv_, (n, (heads + 2 * kv_heads) * head_dim), "float32", align=64)
        table = T.match_buffer(table_, (n, rotary_dim), "float32", align=64)
        plan = T.match_buffer(plan_, (p,), "int32")
        cache = T.match_buffer(cache_, (pages, layers, kv_heads, size), storage(kv_dtype), align=64)
        q = T.match_buffer(q_, (n, heads * head_dim), "float32", align=64)
        for row in T.parallel(n):
            key = T.alloc_buffer((1, head_dim), "float32", scope="global", annotations=IN_REGISTERS)
            page: T.let[T.int64] = T.cast(plan[slots + row], "int64") // PAGE
            offset: T.let[T.int64] = T.cast(plan[slots + row], "int64") % PAGE
            for h in T.serial(heads):
                rotate(qkv, row, h * head_dim, table, q, row, h * head_dim)
            for h in T.serial(kv_heads):
                rotate(qkv, row, (heads + h) * head_dim, table, key, 0, 0)
                put_key(key, 0, 0, cache, page, layer, h, offset)
                put_value(qkv, row, (heads + kv_heads + h) * head_dim, cache, page, layer, h, offset)

    return finish(append_rows)
