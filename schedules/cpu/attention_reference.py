"""What attention must give: a float64 softmax over gathered pages, with inputs and costs for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.plans import PAGE, PlanLayout
from ..registry import Cost
from .kv_cache import example_plan, record
from .reference import itemsize, widen
from .reference import narrow as stored


def attention_reference(
    q: np.ndarray,
    positions: np.ndarray,
    plan: np.ndarray,
    cache: np.ndarray,
    layer: np.int64,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    kv_dtype: str,
    scale: float,
    window: int,
    max_tokens: int,
    max_seqs: int,
    **_: Any,
) -> tuple[np.ndarray]:
    """Row by row, from the page table in the plan."""
    layout = PlanLayout(max_tokens, max_seqs)
    indptr, table = plan[layout.page_indptr :], plan[layout.pages :]
    out = np.empty((len(q), heads, head_dim), np.float32)
    for row, position in enumerate(positions):
        lo = max(position - window + 1, 0) if window else 0
        first = indptr[plan[layout.row_seq + row]]
        pages = table[first + lo // PAGE : first + position // PAGE + 1]
        seen = slice(lo - lo // PAGE * PAGE, position + 1 - lo // PAGE * PAGE)
        records = widen(cache[pages, layer], kv_dtype).reshape(len(pages), kv_heads, 2, PAGE * head_dim)
        k = records[:, :, 0].reshape(-1, kv_heads, head_dim, PAGE).transpose(1, 0, 3, 2).reshape(kv_heads, -1, head_dim)
        v = records[:, :, 1].reshape(-1, kv_heads, PAGE, head_dim).transpose(1, 0, 2, 3).reshape(kv_heads, -1, head_dim)
        queries = (q[row].astype(np.float64) * scale).reshape(kv_heads, heads // kv_heads, head_dim)
        scores = queries @ k[:, seen].astype(np.float64).transpose(0, 2, 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[row] = (weights @ v[:, seen]).reshape(heads, head_dim)
    return (out.reshape(len(q), heads * head_dim),)


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
    **_: Any,
) -> list[np.ndarray]:
    """Random queries and a random cache for `seqs` sequences of `new` rows, the i-th from position start + 13 * i."""
    layout = PlanLayout(max_tokens, max_seqs)
    plan, positions, pages = example_plan(rng, layout, seqs=seqs, start=start, new=new, rows_only=rows == "row")
    q = rng.standard_normal((len(positions), heads * head_dim), np.float32)
    cache = stored(rng.standard_normal((pages, layers, kv_heads, record(head_dim)), np.float32), kv_dtype)
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
