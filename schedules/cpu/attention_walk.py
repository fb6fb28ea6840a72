"""One attention task: the walk of a group of queries over the tiles and segments of its sequence.

Tiles of 128 and segments of 2048 tokens lie at fixed absolute positions. A segment has a softmax state of its own, and
segments merge in ascending order, so that a query's result depends on its position alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...runtime.plans import KV_SEGMENT, KV_TILE, PAGE
from ..compat import T
from ..vector import LANES, const, exp, fma, lanes, splat
from .attention_tile import MASKED, TILE_PAGES, Group, tile_macros
from .spans import full, span

SEGMENT_TILES = KV_SEGMENT // KV_TILE


def walk_macro(group: Group, head_dim: int, kv_dtype: str, scale: float, window: int) -> Callable[..., None]:
    """Macro `attend(q, plan, cache, out, layer, row, head, kv_head, first, count, table)`.

    The task's first query is q[row, head]; `first` is its position and `count` the number of queries. `table` is where the
    page table of the sequence begins in the plan. Table entries of pages that no query sees are not read.
    """
    score, update, accumulate = tile_macros(group, head_dim, kv_dtype, window)
    padded, whole, tail = group.padded, head_dim // LANES, head_dim % LANES
    columns = -(-head_dim // LANES)

    def first_seen(position: Any) -> Any:
        return T.max(position - (window - 1), T.int64(0)) if window else T.int64(0)

    def physical(plan: Any, table: Any, page: Any) -> Any:
        return T.cast(plan[table + page], "int64")

    @T.inline
    def load(q, scaled, row, head, last, queries):
        for r in T.serial(queries):
            i: T.let = T.min(T.cast(r, "int64"), last)
            for d in T.serial(whole):
                scaled[r, lanes(d * LANES)] = q[
                    row + i * group.row_step, lanes((head + i * group.head_step) * head_dim + d * LANES)
                ] * const(scale)
            if tail > 0:
                scaled[r, span(whole * LANES, tail)] = q[
                    row + i * group.row_step, span((head + i * group.head_step) * head_dim + whole * LANES, tail)
                ] * full(scale, tail)

    @T.inline
    def merge(segment, first, last, queries, peak, total, acc, peak_all, total_all, acc_all):
        for r in T.serial(queries):
            position: T.let = first + T.min(T.cast(r, "int64"), last) * group.row_step
            begin: T.let = first_seen(position) // KV_SEGMENT
            if segment == begin:
                peak_all[r, lanes(0)] = peak[r, lanes(0)]
                total_all[r, lanes(0)] = splat(
                    T.call_llvm_pure_intrin("float32", "llvm.vector.reduce.fadd", T.float32(0), total[r, lanes(0)])
                )
                for d in T.serial(columns):
                    acc_all[r, lanes(d * LANES)] = acc[r, lanes(d * LANES)]
            if segment > begin and segment <= position // KV_SEGMENT:
                new: T.let = T.max(peak_all[r, lanes(0)], peak[r, lanes(0)])
                old_factor: T.let = exp(peak_all[r, lanes(0)] - new)
                factor: T.let = exp(peak[r, lanes(0)] - new)
                peak_all[r, lanes(0)] = new
                total_all[r, lanes(0)] = fma(
                    splat(
                        T.call_llvm_pure_intrin("float32", "llvm.vector.reduce.fadd", T.float32(0), total[r, lanes(0)])
                    ),
                    factor,
                    total_all[r, lanes(0)] * old_factor,
                )
                for d in T.serial(columns):
                    acc_all[r, lanes(d * LANES)] = fma(
                        acc[r, lanes(d * LANES)], factor, acc_all[r, lanes(d * LANES)] * old_factor
                    )

    @T.inline
    def store(out, row, head, count, total_all, acc_all):
        # The fma adds +0, so that a row whose values cancel to -0 in one grouping and +0 in another has one result.
        for r in T.serial(count):
            inverse: T.let = const(1.0) / total_all[r, lanes(0)]
            for d in T.serial(whole):
                out[row + r * group.row_step, lanes((head + r * group.head_step) * head_dim + d * LANES)] = fma(
                    acc_all[r, lanes(d * LANES)], inverse, const(0.0)
                )
            if tail > 0:
                acc_all[r, lanes(whole * LANES)] = fma(acc_all[r, lanes(whole * LANES)], inverse, const(0.0))
                out[row + r * group.row_step, span((head + r * group.head_step) * head_dim + whole * LANES, tail)] = (
                    acc_all[r, span(whole * LANES, tail)]
                )

    @T.inline
    def attend(q, plan, cache, out, layer, row, head, kv_head, first, count, table):
        # TVM keeps what is under 1 kB on the stack and takes the rest from a pool of the thread.
        scaled = T.alloc_buffer((padded, columns * LANES), "float32", scope="global", align=64)
        s = T.alloc_buffer((padded, KV_TILE), "float32", scope="global", align=64)
        peak = T.alloc_buffer((padded, LANES), "float32", scope="global", align=64)
        total = T.alloc_buffer((padded, LANES), "float32", scope="global", align=64)
        acc = T.alloc_buffer((padded, columns * LANES), "float32", scope="global", align=64)
        peak_all = T.alloc_buffer((padded, LANES), "float32", scope="global", align=64)
        total_all = T.alloc_buffer((padded, LANES), "float32", scope="global", align=64)
        acc_all = T.alloc_buffer((padded, columns * LANES), "float32", scope="global", align=64)
        page = T.alloc_buffer((2 * TILE_PAGES,), "int64", scope="global")
        last: T.let[T.int64] = T.cast(count, "int64") - 1
        blocks: T.let[T.int64] = last // group.rows + 1
        queries: T.let[T.int64] = blocks * group.rows
        lo: T.let[T.int64] = first_seen(first)
        hi: T.let[T.int64] = first + last * group.row_step + 1
        load(q, scaled, row, head, last, queries)
        # Loops count from 0: TVM 0.27 miscompiles some that begin at a symbolic minimum.
        first_segment: T.let[T.int64] = lo // KV_SEGMENT
        for passed in T.serial((hi + (KV_SEGMENT - 1)) // KV_SEGMENT - first_segment):
            segment: T.let[T.int64] = first_segment + passed
            for r in T.serial(queries):
                peak[r, lanes(0)] = const(MASKED)
                total[r, lanes(0)] = const(0.0)
                for d in T.serial(columns):
                    acc[r, lanes(d * LANES)] = const(0.0)
            first_tile: T.let[T.int64] = T.max(lo // KV_TILE, segment * SEGMENT_TILES)
            for step in T.serial(T.min((hi + (KV_TILE - 1)) // KV_TILE, (segment + 1) * SEGMENT_TILES) - first_tile):
                tile: T.let[T.int64] = first_tile + step
                # Within the tile: the tokens that some query sees, and their pages.
                token_lo: T.let[T.int64] = T.max(lo - tile * KV_TILE, T.int64(0))
                token_hi: T.let[T.int64] = T.min(hi - tile * KV_TILE, T.int64(KV_TILE))
                page_lo: T.let[T.int64] = token_lo // PAGE
                page_hi: T.let[T.int64] = (token_hi + (PAGE - 1)) // PAGE
                for p in T.unroll(TILE_PAGES):
                    page[p] = physical(plan, table, T.min(T.max(tile * TILE_PAGES + p, lo // PAGE), (hi - 1) // PAGE))
                    page[TILE_PAGES + p] = physical(plan, table, T.min((tile + 1) * TILE_PAGES + p, (hi - 1) // PAGE))
                score(scaled, s, cache, page, layer, kv_head, tile, first, last, blocks, page_lo, page_hi)
                update(s, peak, total, acc, queries, page_lo, page_hi)
                accumulate(s, acc, cache, page, layer, kv_head, blocks, token_lo, token_hi)
            merge(segment, first, last, queries, peak, total, acc, peak_all, total_all, acc_all)
        store(out, row, head, count, total_all, acc_all)

    return attend
