"""Writing keys and values into the paged cache, alone or fused with the rotation of queries and keys.

The cache is one pool [pages, layers, kv heads, record]: `runtime.plans.cache` says what stands in a record. One record is
contiguous (vLLM's pages, K transposed).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...runtime.plans import PAGE, Division, PlanLayout, PlanSequence, build_plan
from ...runtime.plans.cache import cache_record
from ..compat import PrimFunc, T, finish
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import IN_REGISTERS, LANES, storage
from .kv_int8 import append_row_int8, write_int8
from .reference import itemsize
from .reference import narrow as stored
from .rope import random_table, rope_reference, rotation
from .spans import narrow, span


def record(key_dim: int, value_dim: int | None = None, kv_dtype: str = "float32") -> int:
    """Elements of one page of one layer and kv head."""
    return cache_record(kv_dtype, key_dim, key_dim if value_dim is None else value_dim).size


def example_plan(
    rng: np.random.Generator, layout: PlanLayout, *, seqs: int, start: int, new: int, rows_only: bool, workers: int = 2
) -> tuple[np.ndarray, np.ndarray, int]:
    """Plan, positions and pool size for `seqs` sequences of `new` rows, the i-th from position start + 13 * i."""
    starts = [start + 13 * i for i in range(seqs)]
    pages = [-(-(s + new) // PAGE) for s in starts]
    shuffled = rng.permutation(sum(pages) + 3).astype(np.int32)
    ends = np.cumsum(pages)
    sequences = [PlanSequence(shuffled[e - p : e], s, new) for s, p, e in zip(starts, pages, ends, strict=True)]
    plan = np.zeros(layout.size(sum(pages)), np.int32)
    _, positions = build_plan(layout, plan, sequences, rows_only=rows_only, division=Division(workers))
    return plan, positions, len(shuffled)


def append_reference(
    k: np.ndarray,
    v: np.ndarray,
    plan: np.ndarray,
    cache: np.ndarray,
    layer: np.int64,
    *,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    max_tokens: int,
    max_seqs: int,
    **_: Any,
) -> tuple[np.ndarray]:
    n = len(k)
    slot = plan[PlanLayout(max_tokens, max_seqs).slot :][:n]
    new = cache.copy()
    records = new[:, int(layer)]  # an int: an array would index a copy
    if kv_dtype == "int8":
        rows = (x.reshape(n, kv_heads, head_dim) for x in (k, v))
        write_int8(records, slot // PAGE, slot % PAGE, *rows)
        return (new,)
    k_half, v_half = records[..., : PAGE * head_dim], records[..., PAGE * head_dim :]
    k_pages = k_half.reshape(len(cache), kv_heads, head_dim, PAGE)
    v_pages = v_half.reshape(len(cache), kv_heads, PAGE, head_dim)
    k_pages[slot // PAGE, :, :, slot % PAGE] = stored(k, kv_dtype).reshape(n, kv_heads, head_dim)
    v_pages[slot // PAGE, :, slot % PAGE] = stored(v, kv_dtype).reshape(n, kv_heads, head_dim)
    k_half[...] = k_pages.reshape(k_half.shape)
    v_half[...] = v_pages.reshape(v_half.shape)
    return (new,)


def _append_inputs(
    rng: np.random.Generator,
    *,
    layers: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    max_tokens: int,
    max_seqs: int,
    seqs: int,
    start: int,
    new: int,
    **_: Any,
) -> list[np.ndarray]:
    layout = PlanLayout(max_tokens, max_seqs)
    plan, positions, pages = example_plan(rng, layout, seqs=seqs, start=start, new=new, rows_only=False)
    k, v = (rng.standard_normal((len(positions), kv_heads * head_dim), np.float32) for _ in range(2))
    cache = random_cache(rng, pages, layers, kv_heads, head_dim, head_dim, kv_dtype)
    return [k, v, plan, cache, np.array(layers - 1, np.int64)]


def random_cache(
    rng: np.random.Generator, pages: int, layers: int, kv_heads: int, key_dim: int, value_dim: int, kv_dtype: str
) -> np.ndarray:
    """A pool whose every token holds normally distributed keys and values."""
    if kv_dtype != "int8":
        shape = (pages, layers, kv_heads, record(key_dim, value_dim))
        return stored(rng.standard_normal(shape, np.float32), kv_dtype)
    cache = rng.integers(0, 256, (pages, layers, kv_heads, record(key_dim, value_dim, kv_dtype)), np.uint8)
    page, slot = (a.ravel() for a in np.indices((pages, PAGE)))
    for layer in range(layers):
        k, v = (rng.standard_normal((len(page), kv_heads, d), np.float32) for d in (key_dim, value_dim))
        write_int8(cache[:, layer], page, slot, k, v)
    return cache


def append_row(kv_heads: int, head_dim: int, kv_dtype: str) -> tuple[Callable[..., None], Callable[..., None]]:
    """Macros `put_key(k, k_row, k_at, cache, ...)` and `put_value(...)`: one head of one row into its slot."""
    if kv_dtype == "int8":
        return append_row_int8(head_dim)

    @T.inline
    def put_key(k, k_row, k_at, cache, page, layer, h, offset):
        for d in T.serial(head_dim):
            cache[page, layer, h, d * PAGE + offset] = narrow(k[k_row, k_at + d], kv_dtype, 1)

    @T.inline
    def put_value(v, v_row, v_at, cache, page, layer, h, offset):
        for d in T.serial(head_dim // LANES):
            cache[page, layer, h, span((PAGE + offset) * head_dim + d * LANES, LANES)] = narrow(
                v[v_row, span(v_at + d * LANES, LANES)], kv_dtype, LANES
            )
        for d in T.serial(head_dim % LANES):
            cache[page, layer, h, (PAGE + offset) * head_dim + head_dim - 1 - d] = narrow(
                v[v_row, v_at + head_dim - 1 - d], kv_dtype, 1
            )

    return put_key, put_value


_SMALL = {"layers": 2, "kv_heads": 2, "max_tokens": 64, "max_seqs": 4}


@kernel(
    reference=append_reference,
    inputs=_append_inputs,
    cost=lambda *, kv_heads, head_dim, kv_dtype, seqs, new, **_: Cost(
        bytes=2 * seqs * new * kv_heads * head_dim * (4 + itemsize(kv_dtype)), flops=0
    ),
    tolerance=Tolerance(0.0, "one rounding to nearest even"),
    cases=[
        Case({**_SMALL, "head_dim": d, "kv_dtype": t}, {"seqs": s, "start": 9, "new": new})
        for d, t, s, new in (
            (64, "float32", 2, 20),
            (72, "float16", 1, 1),
            (32, "bfloat16", 3, 5),
            (64, "int8", 2, 20),
            (70, "int8", 1, 3),
        )
    ],
    num_outputs=0,
    inplace=(3,),
)
def kv_append(
    *,
    layers: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    max_tokens: int,
    max_seqs: int,
    target: TargetProfile,
) -> PrimFunc:
    """k, v float32 [n, kv_heads * head_dim], plan, cache, layer -> cache with row i written to slot[i], in place."""
    slots, size = PlanLayout(max_tokens, max_seqs).slot, record(head_dim, head_dim, kv_dtype)
    put_key, put_value = append_row(kv_heads, head_dim, kv_dtype)

    @T.prim_func(private=True, s_tir=True)
    def append_rows(k_: T.handle, v_: T.handle, plan_: T.handle, cache_: T.handle, layer: T.int64):
        n, p, pages = T.int64(), T.int64(), T.int64()
        k = T.match_buffer(k_, (n, kv_heads * head_dim), "float32", align=64)
        v = T.match_buffer(v_, (n, kv_heads * head_dim), "float32", align=64)
        plan = T.match_buffer(plan_, (p,), "int32")
        cache = T.match_buffer(cache_, (pages, layers, kv_heads, size), storage(kv_dtype), align=64)
        for row in T.parallel(n):
            page: T.let[T.int64] = T.cast(plan[slots + row], "int64") // PAGE
            offset: T.let[T.int64] = T.cast(plan[slots + row], "int64") % PAGE
            for h in T.serial(kv_heads):
                put_key(k, row, h * head_dim, cache, page, layer, h, offset)
                put_value(v, row, h * head_dim, cache, page, layer, h, offset)

    return finish(append_rows)


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
    k, v, plan, cache, layer = _append_inputs(rng, kv_heads=kv_heads, head_dim=head_dim, **rest)
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
            {**_SMALL, "heads": 6, "head_dim": d, "rotary_dim": r, "kv_dtype": t, "interleaved": i},
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
    put_key, put_value = append_row(kv_heads, head_dim, kv_dtype)

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
