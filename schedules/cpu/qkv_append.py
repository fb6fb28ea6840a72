"""A merged projection taken apart: keys and values to the cache, queries to attention, both normalised and rotated before
where a model does so."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.plans import PAGE, PlanLayout
from ..compat import PrimFunc, T, finish
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from ..vector import IN_REGISTERS, LANES, storage
from .kv_append import SMALL, append_inputs, append_reference
from .kv_cache import append_row, record
from .norm import Norm
from .reference import itemsize
from .rope import random_table, rope_reference, rotation
from .spans import span

NORM_OVER = ("", "head", "heads", "full")
"""What is normalised in q and in k: nothing, each head with one weight [head_dim] for all, each head with weights of its own
[heads * head_dim], or the whole row with these."""


def _reference(
    qkv: np.ndarray,
    plan: np.ndarray,
    cache: np.ndarray,
    layer: np.int64,
    *operands: np.ndarray,
    heads: int,
    kv_heads: int,
    head_dim: int,
    rotary_dim: int,
    norm: str,
    norm_eps: float,
    norm_over: str,
    **params: Any,
) -> tuple[np.ndarray, np.ndarray]:
    q, k, v = np.split(qkv, [heads * head_dim, (heads + kv_heads) * head_dim], axis=1)
    table, weights = (operands[:1], operands[1:]) if rotary_dim else ((), operands)
    turned = []
    for x, count, *weight in zip((q, k), (heads, kv_heads), *[weights] * bool(norm), strict=True):
        if norm:
            width = count * head_dim if norm_over == "full" else head_dim
            x = Norm(norm, width, norm_eps).reference(x, *weight)
        if rotary_dim:
            (x,) = rope_reference(x, *table, heads=count, head_dim=head_dim, rotary_dim=rotary_dim, **params)
        turned.append(x)
    (new,) = append_reference(turned[1], v, plan, cache, layer, kv_heads=kv_heads, head_dim=head_dim, **params)
    return new, turned[0]


def _inputs(
    rng: np.random.Generator,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    rotary_dim: int,
    norm_over: str,
    **rest: Any,
) -> list[np.ndarray]:
    k, v, plan, cache, layer = append_inputs(rng, kv_heads=kv_heads, head_dim=head_dim, **rest)
    q = rng.standard_normal((len(k), heads * head_dim), np.float32)
    operands = [random_table(rng, len(k), rotary_dim)] if rotary_dim else []
    if norm_over:
        sizes = [head_dim if norm_over == "head" else count * head_dim for count in (heads, kv_heads)]
        operands += [rng.standard_normal(size, np.float32) for size in sizes]
    return [np.concatenate([q, k, v], 1), plan, cache, layer, *operands]


def _cost(
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    rotary_dim: int,
    norm_over: str,
    kv_dtype: str,
    seqs: int,
    new: int,
    **_: Any,
) -> Cost:
    each = 3 * bool(rotary_dim) + 4 * bool(norm_over)
    return Cost(
        bytes=seqs * new * head_dim * (8 * heads + 2 * kv_heads * (4 + itemsize(kv_dtype))),
        flops=each * seqs * new * head_dim * (heads + kv_heads),
    )


def _case(head_dim: int, rotary_dim: int, kv_dtype: str, seqs: int, new: int, **changed: Any) -> Case:
    params = {**SMALL, "heads": 6, "head_dim": head_dim, "rotary_dim": rotary_dim, "kv_dtype": kv_dtype}
    params |= {"interleaved": False, "norm": "", "norm_eps": 0.0, "norm_over": ""}
    return Case(params | changed, {"seqs": seqs, "start": 9, "new": new})


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=_cost,
    tolerance=Tolerance(1e-6, "the reference rounds its fma twice, and the sums of a norm once"),
    cases=[
        _case(64, 64, "float32", 2, 20),
        _case(80, 40, "float16", 1, 1),
        _case(32, 32, "bfloat16", 3, 5, interleaved=True),
        _case(72, 0, "float16", 2, 9),
        _case(18, 0, "float32", 1, 1),
        _case(72, 72, "float32", 2, 9, norm="rms", norm_eps=1e-6, norm_over="head"),
        _case(40, 10, "float32", 2, 9, norm="layer", norm_eps=1e-5, norm_over="heads"),
        _case(36, 36, "float32", 3, 5, norm="rms", norm_eps=1e-6, norm_over="full"),
        _case(36, 0, "float32", 3, 5, norm="layer", norm_eps=1e-5, norm_over="heads"),
        _case(20, 0, "bfloat16", 1, 7, norm="layer", norm_eps=1e-5, norm_over="full"),
    ],
    inplace=(2,),
)
def qkv_append(
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
    norm: str = "",
    norm_eps: float = 0.0,
    norm_over: str = "",
    target: TargetProfile,
) -> PrimFunc:
    """qkv float32 [n, q | k | v], plan, cache, layer -> cache in place, q float32 [n, heads * head_dim].

    Unless `rotary_dim` is 0, the table of `rope_table` comes after `layer`, and q and k are rotated. With a `norm` (rms or
    layer), over what `norm_over` says, weights of q and of k come next, and both are normalised before. The same bits as
    splitting, `rms_norm` or `layer_norm`, `rope` on q and k, and `kv_append`. ValueError for a norm over nothing.
    """
    if norm_over not in NORM_OVER or bool(norm) != bool(norm_over):
        over = ", ".join(NORM_OVER[1:])
        raise ValueError(f"no norm {norm!r} over {norm_over!r}; choose rms or layer over {over}, or neither")
    slots, size = PlanLayout(max_tokens, max_seqs).slot, record(head_dim, head_dim, kv_dtype)
    put_key, put_value = append_row(head_dim, head_dim, kv_dtype)
    rotate = rotation(rotary_dim, head_dim, interleaved)
    full, by_head, plain, rotated = norm_over == "full", norm_over in ("head", "heads"), not norm, rotary_dim > 0
    moved, turned = plain and not rotated, by_head or rotated
    q_norm, k_norm = (Norm(norm, count * head_dim if full else head_dim, norm_eps) for count in (heads, kv_heads))
    q_size, k_size = (head_dim if norm_over == "head" else count * head_dim for count in (heads, kv_heads))
    weight_step = head_dim if norm_over == "heads" else 0
    key_step = head_dim if full else 0  # all heads of a row are held where they are normalised together
    held = kv_heads * head_dim if full else head_dim
    whole = heads * head_dim // LANES

    @T.inline
    def copy_query(qkv, q, row):
        for i in T.serial(whole):
            q[row, span(i * LANES, LANES)] = qkv[row, span(i * LANES, LANES)]
        for i in T.serial(heads * head_dim - whole * LANES):
            q[row, whole * LANES + i] = qkv[row, whole * LANES + i]

    @T.inline
    def turn(qkv, row, at, table, y, y_row, y_at):
        """Rotate a head on its way to y, or in y, where its norm has put it."""
        if rotated:
            if plain:
                rotate(qkv, row, at, table, row, y, y_row, y_at)
            else:
                rotate(y, y_row, y_at, table, row, y, y_row, y_at)

    @T.prim_func(private=True, s_tir=True)
    def append_rows(
        qkv_: T.handle,
        plan_: T.handle,
        cache_: T.handle,
        layer: T.int64,
        table_: T.handle,
        q_weight_: T.handle,
        k_weight_: T.handle,
        q_: T.handle,
    ):
        n, p, pages = T.int64(), T.int64(), T.int64()
        qkv = T.match_buffer(qkv_, (n, (heads + 2 * kv_heads) * head_dim), "float32", align=64)
        plan = T.match_buffer(plan_, (p,), "int32")
        cache = T.match_buffer(cache_, (pages, layers, kv_heads, size), storage(kv_dtype), align=64)
        table = T.match_buffer(table_, (n, rotary_dim), "float32", align=64)
        q_weight = T.match_buffer(q_weight_, (T.int64(q_size),), "float32", align=64)
        k_weight = T.match_buffer(k_weight_, (T.int64(k_size),), "float32", align=64)
        q = T.match_buffer(q_, (n, heads * head_dim), "float32", align=64)
        for row in T.parallel(n):
            key = T.alloc_buffer((1, held), "float32", scope="global", annotations=IN_REGISTERS)
            page: T.let[T.int64] = T.cast(plan[slots + row], "int64") // PAGE
            offset: T.let[T.int64] = T.cast(plan[slots + row], "int64") % PAGE
            if full:
                q_norm.normalise(qkv, row, 0, 0, q, (row, 0), (q_weight,))
                k_norm.normalise(qkv, row, heads * head_dim, 0, key, (0, 0), (k_weight,))
            if moved:
                copy_query(qkv, q, row)
            if turned:
                for h in T.serial(heads):
                    if by_head:
                        q_norm.normalise(qkv, row, h * head_dim, h * weight_step, q, (row, h * head_dim), (q_weight,))
                    turn(qkv, row, h * head_dim, table, q, row, h * head_dim)
            for h in T.serial(kv_heads):
                if by_head:
                    k_norm.normalise(qkv, row, (heads + h) * head_dim, h * weight_step, key, (0, 0), (k_weight,))
                turn(qkv, row, (heads + h) * head_dim, table, key, 0, h * key_step)
                if moved:
                    put_key(qkv, row, (heads + h) * head_dim, cache, page, layer, h, offset)
                else:
                    put_key(key, 0, h * key_step, cache, page, layer, h, offset)
                put_value(qkv, row, (heads + kv_heads + h) * head_dim, cache, page, layer, h, offset)

    absent = ({"q_weight", "k_weight"} if plain else set()) | (set() if rotated else {"table"})
    params = [p for p in append_rows.params if p.name not in absent]
    return finish(PrimFunc(params, append_rows.body, append_rows.ret_type, append_rows.attrs))
