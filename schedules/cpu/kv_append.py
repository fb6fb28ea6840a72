"""Writing keys and values, or keys alone, into the paged cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.plans import PAGE, PlanLayout
from ..compat import PrimFunc, T, finish
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import storage
from .kv_cache import append_row, example_plan, random_cache, record
from .kv_int8 import write_int8
from .reference import itemsize
from .reference import narrow as stored


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
    value_dim: int | None = None,
    **_: Any,
) -> tuple[np.ndarray]:
    n, page_slots = len(k), plan[PlanLayout(max_tokens, max_seqs).slot :][: len(k)]
    page, slot = page_slots // PAGE, page_slots % PAGE
    value_dim = head_dim if value_dim is None else value_dim
    k, v = k.reshape(n, kv_heads, head_dim), v.reshape(n, kv_heads, value_dim)
    new = cache.copy()
    records = new[:, int(layer)]  # an int: an array would index a copy
    if kv_dtype == "int8":
        write_int8(records, page, slot, k, v)
        return (new,)
    keys, values = records[..., : PAGE * head_dim], records[..., PAGE * head_dim :]
    key_pages = keys.reshape(len(cache), kv_heads, head_dim, PAGE)
    value_pages = values.reshape(len(cache), kv_heads, PAGE, value_dim)
    key_pages[page, :, :, slot] = stored(k, kv_dtype)
    value_pages[page, :, slot] = stored(v, kv_dtype)
    keys[...], values[...] = key_pages.reshape(keys.shape), value_pages.reshape(values.shape)
    return (new,)


def append_inputs(
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
    value_dim: int | None = None,
    **_: Any,
) -> list[np.ndarray]:
    layout = PlanLayout(max_tokens, max_seqs)
    plan, positions, pages = example_plan(rng, layout, seqs=seqs, start=start, new=new, rows_only=False)
    dims = head_dim, head_dim if value_dim is None else value_dim
    k, v = (rng.standard_normal((len(positions), kv_heads * dim), np.float32) for dim in dims)
    cache = random_cache(rng, pages, layers, kv_heads, *dims, kv_dtype)
    return [k, v, plan, cache, np.array(layers - 1, np.int64)]


SMALL = {"layers": 2, "kv_heads": 2, "max_tokens": 64, "max_seqs": 4}


@kernel(
    reference=append_reference,
    inputs=append_inputs,
    cost=lambda *, kv_heads, head_dim, value_dim, kv_dtype, seqs, new, **_: Cost(
        bytes=seqs * new * kv_heads * (head_dim + value_dim) * (4 + itemsize(kv_dtype)), flops=0
    ),
    tolerance=Tolerance(0.0, "one rounding to nearest even"),
    cases=[
        Case({**SMALL, "head_dim": d, "value_dim": e, "kv_dtype": t}, {"seqs": s, "start": 9, "new": new})
        for d, e, t, s, new in (
            (64, 64, "float32", 2, 20),
            (72, 72, "float16", 1, 1),
            (96, 40, "float16", 2, 5),
            (32, 32, "bfloat16", 3, 5),
            (64, 64, "int8", 2, 20),
            (70, 38, "int8", 1, 3),
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
    value_dim: int | None = None,
    target: TargetProfile,
) -> PrimFunc:
    """k float32 [n, kv_heads * head_dim], v float32 [n, kv_heads * value_dim], plan, cache, layer -> cache in place.

    Row i goes to slot[i] of the plan. `value_dim` is `head_dim` where it is not given.
    """
    value_dim = head_dim if value_dim is None else value_dim
    slots, size = PlanLayout(max_tokens, max_seqs).slot, record(head_dim, value_dim, kv_dtype)
    put_key, put_value = append_row(head_dim, value_dim, kv_dtype)

    @T.prim_func(private=True, s_tir=True)
    def append_rows(k_: T.handle, v_: T.handle, plan_: T.handle, cache_: T.handle, layer: T.int64):
        n, p, pages = T.int64(), T.int64(), T.int64()
        k = T.match_buffer(k_, (n, kv_heads * head_dim), "float32", align=64)
        v = T.match_buffer(v_, (n, kv_heads * value_dim), "float32", align=64)
        plan = T.match_buffer(plan_, (p,), "int32")
        cache = T.match_buffer(cache_, (pages, layers, kv_heads, size), storage(kv_dtype), align=64)
        for row in T.parallel(n):
            page: T.let[T.int64] = T.cast(plan[slots + row], "int64") // PAGE
            offset: T.let[T.int64] = T.cast(plan[slots + row], "int64") % PAGE
            for h in T.serial(kv_heads):
                put_key(k, row, h * head_dim, cache, page, layer, h, offset)
                put_value(v, row, h * value_dim, cache, page, layer, h, offset)

    return finish(append_rows)


def _key_reference(
    k: np.ndarray, plan: np.ndarray, cache: np.ndarray, layer: np.int64, **params: Any
) -> tuple[np.ndarray]:
    none = np.empty((len(k), 0), np.float32)
    return append_reference(k, none, plan, cache, layer, value_dim=0, **params)


def _key_inputs(rng: np.random.Generator, **params: Any) -> list[np.ndarray]:
    k, _, *rest = append_inputs(rng, value_dim=0, **params)
    return [k, *rest]


@kernel(
    reference=_key_reference,
    inputs=_key_inputs,
    cost=lambda *, kv_heads, head_dim, kv_dtype, seqs, new, **_: Cost(
        bytes=seqs * new * kv_heads * head_dim * (4 + itemsize(kv_dtype)), flops=0
    ),
    tolerance=Tolerance(0.0, "one rounding to nearest even"),
    cases=[
        Case({**SMALL, "head_dim": d, "kv_dtype": t}, {"seqs": s, "start": 9, "new": new})
        for d, t, s, new in ((64, "float32", 2, 20), (72, "float16", 1, 1), (576, "bfloat16", 2, 3))
    ],
    num_outputs=0,
    inplace=(2,),
)
def key_append(
    *,
    layers: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    max_tokens: int,
    max_seqs: int,
    target: TargetProfile,
) -> PrimFunc:
    """k float32 [n, kv_heads * head_dim], plan, cache, layer -> cache in place, for pages of keys alone.

    Attention with `shared_values` reads its values from them (latent attention: DeepSeek's MLA). Floats only.
    """
    if kv_dtype == "int8":
        raise ValueError("int8 pages hold keys and values apart; choose a float type for pages of keys alone")
    slots, size = PlanLayout(max_tokens, max_seqs).slot, record(head_dim, 0, kv_dtype)
    put_key, _ = append_row(head_dim, 0, kv_dtype)

    @T.prim_func(private=True, s_tir=True)
    def append_rows(k_: T.handle, plan_: T.handle, cache_: T.handle, layer: T.int64):
        n, p, pages = T.int64(), T.int64(), T.int64()
        k = T.match_buffer(k_, (n, kv_heads * head_dim), "float32", align=64)
        plan = T.match_buffer(plan_, (p,), "int32")
        cache = T.match_buffer(cache_, (pages, layers, kv_heads, size), storage(kv_dtype), align=64)
        for row in T.parallel(n):
            page: T.let[T.int64] = T.cast(plan[slots + row], "int64") // PAGE
            offset: T.let[T.int64] = T.cast(plan[slots + row], "int64") % PAGE
            for h in T.serial(kv_heads):
                put_key(k, row, h * head_dim, cache, page, layer, h, offset)

    return finish(append_rows)
