"""One KV tile of attention: scores, softmax update, and weighted values for a group of queries.

A task serves a group of queries against one kv head: the heads of one row that share it, or up to 32 rows of one head. These
macros do one tile of 128 tokens for the group (FlashAttention's online softmax). Lanes of the scores are tokens, lanes of the
values are dimensions, and no operation crosses queries: a query's bits do not depend on its group.

Loops count from 0 and add their start: TVM 0.27 miscompiles some loops that begin at a symbolic minimum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ...runtime.plans import KV_TILE, PAGE, TILE_ROWS
from ..compat import T
from ..target import TargetProfile
from ..vector import IN_REGISTERS, LANES, Vec, const, exp, fma, lanes, splat, widen
from .reference import itemsize
from .spans import fma_span, full, span

TILE_PAGES = KV_TILE // PAGE
MASKED = -1e30  # the score of a token that a query does not see, and the maximum before any token


@dataclasses.dataclass(frozen=True)
class Group:
    """The queries of one task and their register tiles.

    The i-th of at most `size` queries stands `row_step` rows and `head_step` heads after the first. `rows` queries are in
    registers at a time, with `pages` pages of scores or `vectors` vectors of values. `prefetch` where memory bounds the task.
    """

    size: int
    row_step: int
    head_step: int
    rows: int
    pages: int
    vectors: int
    prefetch: bool

    @property
    def padded(self) -> int:
        """Queries including those that fill the last register tile; they repeat the last query."""
        return -(-self.size // self.rows) * self.rows


def _group(size: int, row_step: int, head_step: int, target: TargetProfile) -> Group:
    registers = target.vector_registers * target.vector_bits // (32 * LANES)  # float32x16 values
    most_rows = 8 if registers >= 32 else 4
    rows = -(-size // -(-size // most_rows))
    accumulators = max(n for n in (1, 2, 4, 8) if n == 1 or n * rows <= registers * 5 // 8)
    return Group(size, row_step, head_step, rows, accumulators, accumulators, prefetch=row_step == 0)


def row_group(heads: int, kv_heads: int, target: TargetProfile) -> Group:
    """The query heads of one row that share a kv head, so that KV is read once for all of them."""
    return _group(heads // kv_heads, 0, 1, target)


def tile_group(target: TargetProfile) -> Group:
    """The rows of one tile of one head."""
    return _group(TILE_ROWS, 1, 0, target)


def max_lanes(x: Vec) -> Any:
    """The largest lane, as the largest of the integers that order like the floats (llvm's own fmax checks for NaN)."""
    low = T.int32(0x7FFFFFFF)
    bits = T.reinterpret("int32x16", x)
    ordered = T.bitwise_xor(bits, T.bitwise_and(T.shift_right(bits, splat(T.int32(31))), splat(low)))
    top = T.call_llvm_pure_intrin("int32", "llvm.vector.reduce.smax", ordered)
    return T.reinterpret("float32", T.bitwise_xor(top, T.bitwise_and(T.shift_right(top, T.int32(31)), low)))


def tile_macros(group: Group, head_dim: int, kv_dtype: str, window: int) -> tuple[Callable[..., None], ...]:
    """The macros `score`, `update` and `accumulate` of one tile.

    They share scratch: `s` [padded, 128] scores, then weights; `peak` [padded, 16] the maximum and `total` [padded, 16] the
    partial sums; `acc` [padded, head_dim rounded up to 16]; `page` [16] the physical pages of the tile and of the next one.

    Scoring prefetches the tile's values and accumulating the next tile's keys, which are as large and walked the same way.
    """
    rows, pages, vectors = group.rows, group.pages, group.vectors
    whole, tail = head_dim // LANES, head_dim % LANES
    line = 64 // itemsize(kv_dtype) // LANES  # vectors in a cache line

    def fetch(cache: Any, page: Any, layer: Any, head: Any, at: Any) -> Any:
        address = T.address_of(cache[page, layer, head, at])
        return T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", address, 0, 3, 1))

    def visible(tile: Any, page: Any, position: Any) -> Any:
        token = lanes(T.cast(tile * KV_TILE + page * PAGE, "int32"))
        seen = token <= splat(T.cast(position, "int32"))
        if not window:
            return seen
        return T.bitwise_and(seen, token > splat(T.cast(position - window, "int32")))

    @T.inline
    def score(q, s, cache, page, layer, head, tile, first, last, blocks, page_lo, page_hi):
        first_group: T.let = page_lo // pages
        for step in T.serial((page_hi + (pages - 1)) // pages - first_group):
            p0: T.let = first_group + step
            for block in T.serial(blocks):
                x = T.alloc_buffer((rows, pages, LANES), "float32", scope="global", annotations=IN_REGISTERS)
                for r in T.unroll(rows):
                    for p in T.unroll(pages):
                        x[r, p, lanes(0)] = const(0.0)
                for d0 in T.serial(head_dim // line):
                    if group.prefetch:
                        for p in T.unroll(pages):
                            fetch(cache, page[p0 * pages + p], layer, head, PAGE * head_dim + d0 * (line * PAGE))
                    for i in T.unroll(line):
                        for p in T.unroll(pages):
                            for r in T.unroll(rows):
                                x[r, p, lanes(0)] = fma(
                                    widen(
                                        cache[page[p0 * pages + p], layer, head, lanes((d0 * line + i) * PAGE)],
                                        kv_dtype,
                                    ),
                                    splat(q[block * rows + r, d0 * line + i]),
                                    x[r, p, lanes(0)],
                                )
                for r in T.unroll(rows):
                    position: T.let = first + T.min(block * rows + r, last) * group.row_step
                    for p in T.unroll(pages):
                        s[block * rows + r, lanes((p0 * pages + p) * PAGE)] = T.Select(
                            visible(tile, p0 * pages + p, position), x[r, p, lanes(0)], const(MASKED)
                        )

    @T.inline
    def update(s, peak, total, acc, queries, page_lo, page_hi):
        for r in T.serial(queries):
            top = T.alloc_buffer((LANES,), "float32", scope="global", annotations=IN_REGISTERS)
            top[lanes(0)] = peak[r, lanes(0)]
            first_page: T.let = page_lo // pages * pages
            scored: T.let = (page_hi + (pages - 1)) // pages * pages - first_page
            for step in T.serial(scored):
                p: T.let = first_page + step
                top[lanes(0)] = T.max(top[lanes(0)], s[r, lanes(p * PAGE)])
            new: T.let = splat(max_lanes(top[lanes(0)]))
            factor: T.let = exp(peak[r, lanes(0)] - new)
            peak[r, lanes(0)] = new
            top[lanes(0)] = fma(total[r, lanes(0)], factor, const(0.0))
            for step in T.serial(scored):
                p: T.let = first_page + step
                x: T.let = s[r, lanes(p * PAGE)]
                weight: T.let = T.Select(x <= const(MASKED), const(0.0), exp(x - new))
                top[lanes(0)] = top[lanes(0)] + weight
                s[r, lanes(p * PAGE)] = weight
            total[r, lanes(0)] = top[lanes(0)]
            for d in T.unroll(-(-head_dim // LANES)):
                acc[r, lanes(d * LANES)] = acc[r, lanes(d * LANES)] * factor

    @T.inline
    def accumulate_columns(s, acc, cache, page, layer, head, blocks, lo, hi, column, n, width):
        for block in T.serial(blocks):
            x = T.alloc_buffer((rows, n, width), "float32", scope="global", annotations=IN_REGISTERS)
            for r in T.unroll(rows):
                for d in T.unroll(n):
                    x[r, d, span(0, width)] = acc[block * rows + r, span(column + d * width, width)]
            first_page: T.let = lo // PAGE
            for page_step in T.serial((hi + (PAGE - 1)) // PAGE - first_page):
                p: T.let = first_page + page_step
                begin: T.let = T.max(lo - p * PAGE, T.int64(0))
                for step in T.serial(T.min(hi - p * PAGE, T.int64(PAGE)) - begin):
                    t: T.let = begin + step
                    if group.prefetch:
                        for d in T.unroll(-(-n // line)):
                            fetch(cache, page[TILE_PAGES + p], layer, head, t * head_dim + column + d * (line * LANES))
                    for d in T.unroll(n):
                        for r in T.unroll(rows):
                            x[r, d, span(0, width)] = fma_span(
                                full(s[block * rows + r, p * PAGE + t], width),
                                widen(
                                    cache[
                                        page[p], layer, head, span((PAGE + t) * head_dim + column + d * width, width)
                                    ],
                                    kv_dtype,
                                    width,
                                ),
                                x[r, d, span(0, width)],
                                width,
                            )
            for r in T.unroll(rows):
                for d in T.unroll(n):
                    acc[block * rows + r, span(column + d * width, width)] = x[r, d, span(0, width)]

    @T.inline
    def accumulate(s, acc, cache, page, layer, head, blocks, lo, hi):
        for c in T.serial(whole // vectors):
            accumulate_columns(s, acc, cache, page, layer, head, blocks, lo, hi, c * (vectors * LANES), vectors, LANES)
        if whole % vectors > 0:
            accumulate_columns(
                s,
                acc,
                cache,
                page,
                layer,
                head,
                blocks,
                lo,
                hi,
                whole // vectors * vectors * LANES,
                whole % vectors,
                LANES,
            )
        if tail > 0:
            accumulate_columns(s, acc, cache, page, layer, head, blocks, lo, hi, whole * LANES, 1, tail)

    return score, update, accumulate
