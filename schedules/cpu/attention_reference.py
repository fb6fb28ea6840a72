"""What attention must give: a float64 softmax over gathered pages, with inputs and costs for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.plans import PAGE, PlanLayout
from ..registry import Cost
from .kv_cache import example_plan, random_cache
from .kv_int8 import read_int8
from .reference import itemsize, widen


def attention_reference(
    q: np.ndarray,
    positions: np.ndarray,
    plan: np.ndarray,
    cache: np.ndarray,
    layer: np.int64,
    logits: np.ndarray | None = None,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    scale: float,
    max_tokens: int,
    max_seqs: int,
    value_dim: int = 0,
    window: int = 0,
    lookahead: int = -1,
    sinks: int = 0,
    softcap: float = 0.0,
    shared_values: bool = False,
    tree_words: int = 0,
    **_: Any,
) -> tuple[np.ndarray]:
    """Row by row, from the page table in the plan; `logits` are those of the sinks, float32 [heads]."""
    layout = PlanLayout.of(max_tokens, max_seqs, heads=heads, kv_heads=kv_heads, tree_words=tree_words)
    value_dim = value_dim or head_dim
    indptr, table = plan[layout.page_indptr :], plan[layout.pages :]
    out = np.empty((len(q), heads, value_dim), np.float32)
    for row, position in enumerate(positions):
        limit = plan[layout.limit + row]
        last = min(position + lookahead, limit) if lookahead >= 0 else limit
        token = np.arange(last + 1)
        visible = (token > position - window) | (token < sinks) if window else token >= 0
        if tree_words:
            fields = plan[layout.tree + row * layout.tree_fields :][: layout.tree_fields]
            node = token - fields[0]
            word = fields[1:].view(np.uint32)[np.clip(node // 32, 0, tree_words - 1)]
            visible &= (node < 0) | ((word >> (node % 32).astype(np.uint32)) & 1 == 1)
        token = token[visible]
        pages = table[indptr[plan[layout.row_seq + row]] + token // PAGE]
        stored = 0 if shared_values else value_dim
        k, v = read_cache(cache, pages, token % PAGE, layer, kv_heads, head_dim, stored, kv_dtype)
        v = k[..., :value_dim] if shared_values else v
        queries = (q[row].astype(np.float64) * scale).reshape(kv_heads, heads // kv_heads, head_dim)
        scores = queries @ k.transpose(1, 2, 0)
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        sink = np.full((kv_heads, heads // kv_heads, 1), -np.inf)
        if logits is not None:
            sink = logits.astype(np.float64).reshape(kv_heads, -1, 1)
        top = np.maximum(scores.max(-1, keepdims=True), sink)
        weights = np.exp(scores - top)
        weights /= weights.sum(-1, keepdims=True) + np.exp(sink - top)
        out[row] = (weights @ v.transpose(1, 0, 2)).reshape(heads, value_dim)
    return (out.reshape(len(q), heads * value_dim),)


def read_cache(
    cache: np.ndarray,
    pages: np.ndarray,
    slots: np.ndarray,
    layer: np.int64,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    kv_dtype: str,
) -> tuple[np.ndarray, np.ndarray]:
    """K float64 [tokens, kv_heads, key_dim] and V of tokens at (page, slot); every page is gathered once."""
    distinct, at = np.unique(pages, return_inverse=True)
    records = cache[distinct, int(layer)]
    if kv_dtype == "int8":
        return read_int8(records, at, slots, key_dim, value_dim)
    records = widen(records, kv_dtype).astype(np.float64)
    k = records[..., : PAGE * key_dim].reshape(len(distinct), kv_heads, key_dim, PAGE)
    v = records[..., PAGE * key_dim :].reshape(len(distinct), kv_heads, PAGE, value_dim)
    return k[at, :, :, slots], v[at, :, slots]


def attention_inputs(
    rng: np.random.Generator,
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    rows: str,
    max_tokens: int,
    max_seqs: int,
    seqs: int,
    start: int,
    new: int,
    value_dim: int = 0,
    shared_values: bool = False,
    **_: Any,
) -> list[np.ndarray]:
    """Random queries and a random cache for `seqs` sequences of `new` rows, the i-th from position start + 13 * i."""
    layout = PlanLayout.of(max_tokens, max_seqs, heads=heads, kv_heads=kv_heads)
    plan, positions, pages = example_plan(rng, layout, seqs=seqs, start=start, new=new, rows_only=rows == "row")
    q = rng.standard_normal((len(positions), heads * head_dim), np.float32)
    stored = 0 if shared_values else value_dim or head_dim
    cache = random_cache(rng, pages, layers, kv_heads, head_dim, stored, kv_dtype)
    return [q, positions, plan, cache, np.array(layers - 1, np.int64)]


def attention_cost(
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    window: int,
    rows: str,
    seqs: int,
    start: int,
    new: int,
    **_: Any,
) -> Cost:
    """Row tasks read the KV that they see row by row; tiles read that of a sequence at least once."""
    reach = window or np.iinfo(np.int64).max
    seen = [np.minimum(np.arange(s + 1, s + new + 1), reach) for s in (start + 13 * i for i in range(seqs))]
    tokens = int(np.sum(seen))
    read = tokens if rows == "row" else sum(min(start + 13 * i + new, reach + new - 1) for i in range(seqs))
    kv = 2 * kv_heads * head_dim * itemsize(kv_dtype)
    return Cost(bytes=read * kv + 8 * seqs * new * heads * head_dim, flops=4 * tokens * heads * head_dim)
