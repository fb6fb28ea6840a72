"""The paged cache for kernels, tests and benchmarks: records, example plans, random pages, and the writing of one row.

The cache is one pool [pages, layers, kv heads, record]: `runtime.plans.cache` says what stands in a record. One record is
contiguous (vLLM's pages, K transposed).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...runtime.plans import PAGE, Division, PlanLayout, PlanSequence, build_plan
from ...runtime.plans.cache import cache_record
from ..compat import T
from ..vector import LANES
from .kv_int8 import append_row_int8, write_int8
from .reference import narrow as stored
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


def append_row(key_dim: int, value_dim: int, kv_dtype: str) -> tuple[Callable[..., None], Callable[..., None]]:
    """Macros `put_key(k, k_row, k_at, cache, ...)` and `put_value(...)`: one head of one row into its slot."""
    if kv_dtype == "int8":
        return append_row_int8(key_dim, value_dim)

    @T.inline
    def put_key(k, k_row, k_at, cache, page, layer, h, offset):
        for d in T.serial(key_dim):
            cache[page, layer, h, d * PAGE + offset] = narrow(k[k_row, k_at + d], kv_dtype, 1)

    @T.inline
    def put_value(v, v_row, v_at, cache, page, layer, h, offset):
        for d in T.serial(value_dim // LANES):
            cache[page, layer, h, span(PAGE * key_dim + offset * value_dim + d * LANES, LANES)] = narrow(
                v[v_row, span(v_at + d * LANES, LANES)], kv_dtype, LANES
            )
        for d in T.serial(value_dim % LANES):
            cache[page, layer, h, PAGE * key_dim + offset * value_dim + value_dim - 1 - d] = narrow(
                v[v_row, v_at + value_dim - 1 - d], kv_dtype, 1
            )

    return put_key, put_value
