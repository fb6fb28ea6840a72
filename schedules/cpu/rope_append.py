"""The rotation of queries and keys (normalised before, where a model does so) fused with writing keys and values to the cache."""

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
from .norm import Norm
from .reference import itemsize
from .rope import random_table, rope_reference, rotation


def _rope_append_reference(
    qkv: np.ndarray,
    table: np.ndarray,
    plan: np.ndarray,
    cache: np.ndarray,
    layer: np.int64,
    *weights: np.ndarray,
    heads: int,
    kv_heads: int,
    head_dim: int,
    norm_eps: float | None,
    **params: Any,
) -> tuple[np.ndarray, np.ndarray]:
    q, k, v = np.split(qkv, [heads * head_dim, (heads + kv_heads) * head_dim], axis=1)
    if norm_eps is not None:
        norm = Norm("rms", head_dim, norm_eps)
        q, k = norm.reference(q, weights[0]), norm.reference(k, weights[1])
    (q,) = rope_reference(q, table, heads=heads, head_dim=head_dim, **params)
    (k,) = rope_reference(k, table, heads=kv_heads, head_dim=head_dim, **params)
    (new,) = append_reference(k, v, plan, cache, layer, kv_heads=kv_heads, head_dim=head_dim, **params)
    return new, q


def _rope_append_inputs(
    rng: np.random.Generator,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    rotary_dim: int,
    norm_eps: float | None,
    **rest: Any,
) -> list[np.ndarray]:
    k, v, plan, cache, layer = append_inputs(rng, kv_heads=kv_heads, head_dim=head_dim, **rest)
    q = rng.standard_normal((len(k), heads * head_dim), np.float32)
    weights = [] if norm_eps is None else list(rng.standard_normal((2, head_dim), np.float32))
    return [np.concatenate([q, k, v], 1), random_table(rng, len(k), rotary_dim), plan, cache, layer, *weights]


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
            {**SMALL, "heads": 6, "head_dim": d, "rotary_dim": r, "kv_dtype": t, "interleaved": i, "norm_eps": e},
            {"seqs": s, "start": 9, "new": new},
        )
        for d, r, t, i, s, new, e in (
            (64, 64, "float32", False, 2, 20, None),
            (80, 40, "float16", False, 1, 1, None),
            (32, 32, "bfloat16", True, 3, 5, None),
            (72, 72, "float32", False, 2, 9, 1e-6),
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
    norm_eps: float | None = None,
    target: TargetProfile,
) -> PrimFunc:
    """qkv float32 [n, q | k | v], table, plan, cache, layer -> cache in place, q float32 [n, heads * head_dim] rotated.

    With `norm_eps`, after `layer` come float32 weights [head_dim] of q and of k: each head of q and k is divided by its root
    mean square and multiplied by these before it is rotated. The same bits as splitting, `rms_norm` of the heads, `rope` on q
    and k, and `kv_append`.
    """
    slots, size = PlanLayout(max_tokens, max_seqs).slot, record(head_dim, head_dim, kv_dtype)
    rotate = rotation(rotary_dim, head_dim, interleaved)
    put_key, put_value = append_row(head_dim, head_dim, kv_dtype)
    with_norm = norm_eps is not None
    norm = Norm("rms", head_dim, norm_eps or 0.0)

    @T.prim_func(private=True, s_tir=True)
    def append_rows(
        qkv_: T.handle,
        table_: T.handle,
        plan_: T.handle,
        cache_: T.handle,
        layer: T.int64,
        q_weight_: T.handle,
        k_weight_: T.handle,
        q_: T.handle,
    ):
        n, p, pages = T.int64(), T.int64(), T.int64()
        qkv = T.match_buffer(qkv_, (n, (heads + 2 * kv_heads) * head_dim), "float32", align=64)
        table = T.match_buffer(table_, (n, rotary_dim), "float32", align=64)
        plan = T.match_buffer(plan_, (p,), "int32")
        cache = T.match_buffer(cache_, (pages, layers, kv_heads, size), storage(kv_dtype), align=64)
        q_weight = T.match_buffer(q_weight_, (T.int64(head_dim),), "float32", align=64)
        k_weight = T.match_buffer(k_weight_, (T.int64(head_dim),), "float32", align=64)
        q = T.match_buffer(q_, (n, heads * head_dim), "float32", align=64)
        for row in T.parallel(n):
            key = T.alloc_buffer((1, head_dim), "float32", scope="global", annotations=IN_REGISTERS)
            page: T.let[T.int64] = T.cast(plan[slots + row], "int64") // PAGE
            offset: T.let[T.int64] = T.cast(plan[slots + row], "int64") % PAGE
            normal = T.alloc_buffer((1, head_dim), "float32", scope="global", annotations=IN_REGISTERS)
            for h in T.serial(heads):
                if with_norm:
                    norm.normalise(qkv, row, h * head_dim, 0, normal, (0, 0), (q_weight,))
                    rotate(normal, 0, 0, table, row, q, row, h * head_dim)
                else:
                    rotate(qkv, row, h * head_dim, table, row, q, row, h * head_dim)
            for h in T.serial(kv_heads):
                if with_norm:
                    norm.normalise(qkv, row, (heads + h) * head_dim, 0, normal, (0, 0), (k_weight,))
                    rotate(normal, 0, 0, table, row, key, 0, 0)
                else:
                    rotate(qkv, row, (heads + h) * head_dim, table, row, key, 0, 0)
                put_key(key, 0, 0, cache, page, layer, h, offset)
                put_value(qkv, row, (heads + kv_heads + h) * head_dim, cache, page, layer, h, offset)

    absent = set() if with_norm else {"q_weight", "k_weight"}
    params = [p for p in append_rows.params if p.name not in absent]
    return finish(PrimFunc(params, append_rows.body, append_rows.ret_type, append_rows.attrs))
