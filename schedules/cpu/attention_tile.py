"""One KV tile of attention in explicit vectors, for caches in float32, float16 and bfloat16.

The micro-kernel of the attention walk: scores of a tile of 128 tokens for a group of queries, and the weighted values. Lanes
of the scores are tokens, lanes of the values are dimensions, and no operation crosses queries: a query's bits do not depend
on its group. A record of the cache holds K as [key_dim][16 tokens], then V as [16 tokens][value_dim].

Loops count from 0 and add their start: TVM 0.27 miscompiles some loops that begin at a symbolic minimum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ...runtime.plans import KV_TILE, PAGE
from ..compat import T
from ..emit import Buffer, Value, evaluate, i64, let, local, serial, store, unroll, when
from ..vector import LANES, Vec, const, fma, lanes, splat, widen
from .attention_group import Group
from .reference import itemsize
from .softmax_state import MASKED
from .spans import fma_span, full, span

TILE_PAGES = KV_TILE // PAGE


@dataclasses.dataclass(frozen=True)
class KVTile:
    """Where a tile stands: `cache[page[p], *place, offset]`, its pages [page_lo, page_hi) and tokens [lo, hi) that count.

    `page` holds the physical pages of this tile and of the next one.
    """

    cache: Buffer
    page: Buffer
    place: Sequence[Value]
    page_lo: Value
    page_hi: Value
    lo: Value
    hi: Value

    def at(self, p: Value, offset: Value) -> Value:
        """Elements of the record of page `p` of the tile."""
        return self.cache[(self.page[p], *self.place, offset)]

    def fetch(self, p: Value, offset: Value) -> None:
        """Prefetch the cache line of an element."""
        address = T.address_of(self.at(p, offset))
        evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", address, 0, 3, 1))


Finish = Callable[[Value, Value, Vec], Vec]
"""finish(query, page of the tile, raw scores of its 16 tokens): the scores, masked ones at MASKED."""


def mask_rest(scores: Buffer, queries: Value, scored: Value) -> None:
    """Where not all pages of a tile are scored: MASKED everywhere first."""
    with when(scored < TILE_PAGES), serial(queries, "r") as r, serial(TILE_PAGES, "p") as p:
        store(scores, (r, lanes(p * PAGE)), const(MASKED))


class FloatTile:
    """Scores and values of stored floats, by chains of fma over ascending dimensions and tokens."""

    def __init__(self, group: Group, key_dim: int, value_dim: int, kv_dtype: str) -> None:
        self.group, self.key_dim, self.value_dim, self.kv_dtype = group, key_dim, value_dim, kv_dtype
        self.line = 64 // itemsize(kv_dtype) // LANES  # vectors in a cache line
        columns = -(-key_dim // LANES)
        self.q = local("scaled", (group.padded, columns * LANES))
        self.weights = local("s", (group.padded, KV_TILE))

    def load(self, query: Value, q: Callable[[Value, int], Value], scale: float) -> None:
        """Take the query whose elements are `q(offset, lanes)`, times the scale (one rounding)."""
        whole, tail = self.key_dim // LANES, self.key_dim % LANES
        with serial(whole, "d") as d:
            store(self.q, (query, lanes(d * LANES)), q(d * LANES, LANES) * const(scale))
        if tail:
            store(self.q, (query, span(whole * LANES, tail)), q(whole * LANES, tail) * full(scale, tail))

    def repeat(self, query: Value, last: Value) -> None:
        """Fill a register tile with a copy of the last query."""
        with serial(-(-self.key_dim // LANES), "d") as d:
            store(self.q, (query, lanes(d * LANES)), self.q[last, lanes(d * LANES)])

    def score(self, tile: KVTile, blocks: Value, finish: Finish) -> None:
        """Scores of the pages that some query sees, in steps of the register tile; MASKED for the others."""
        group, line, pages = self.group, self.line, self.group.pages
        values = PAGE * self.key_dim
        first_step = let("first_step", T.truncdiv(tile.page_lo, i64(pages)))
        steps = let("steps", T.truncdiv(tile.page_hi + (pages - 1), i64(pages)) - first_step)
        mask_rest(self.weights, blocks * group.block, steps * pages)
        with serial(steps, "step") as step:
            p0 = let("p0", (first_step + step) * pages)
            with serial(blocks, "block") as block:
                x = local("x", (group.block, pages, LANES), registers=True)
                with unroll(group.block, "r") as r, unroll(pages, "p") as p:
                    store(x, (r, p, lanes(0)), const(0.0))
                with serial(self.key_dim // line, "d0") as d0:
                    if group.prefetch:
                        with unroll(pages, "p") as p:
                            tile.fetch(p0 + p, values + d0 * (line * PAGE))
                    with unroll(line, "i") as i, unroll(pages, "p") as p, unroll(group.block, "r") as r:
                        key = widen(tile.at(p0 + p, lanes((d0 * line + i) * PAGE)), self.kv_dtype)
                        query = splat(self.q[block * group.block + r, d0 * line + i])
                        store(x, (r, p, lanes(0)), fma(key, query, x[r, p, lanes(0)]))
                if self.key_dim % line:
                    self._score_last(tile, x, p0, block)
                with unroll(group.block, "r") as r:
                    query = let("query", block * group.block + r)
                    with unroll(pages, "p") as p:
                        store(self.weights, (query, lanes((p0 + p) * PAGE)), finish(query, p0 + p, x[r, p, lanes(0)]))

    def _score_last(self, tile: KVTile, x: Buffer, p0: Value, block: Value) -> None:
        group = self.group
        for d in range(self.key_dim // self.line * self.line, self.key_dim):
            with unroll(group.pages, "p") as p, unroll(group.block, "r") as r:
                key = widen(tile.at(p0 + p, lanes(d * PAGE)), self.kv_dtype)
                query = splat(self.q[block * group.block + r, d])
                store(x, (r, p, lanes(0)), fma(key, query, x[r, p, lanes(0)]))

    def observer(self, tile: KVTile) -> None:
        """Weights are used as they are."""

    def accumulate(self, tile: KVTile, blocks: Value, acc: Buffer) -> None:
        """acc += weights times values, token by token; only tokens in [lo, hi) are read."""
        whole, tail, vectors = self.value_dim // LANES, self.value_dim % LANES, self.group.vectors
        if whole // vectors:
            with serial(whole // vectors, "c") as c:
                self._columns(tile, blocks, acc, c * (vectors * LANES), vectors, LANES)
        if whole % vectors:
            self._columns(tile, blocks, acc, whole // vectors * vectors * LANES, whole % vectors, LANES)
        if tail:
            self._columns(tile, blocks, acc, whole * LANES, 1, tail)

    def _columns(self, tile: KVTile, blocks: Value, acc: Buffer, column: Value, n: int, width: int) -> None:
        group, s = self.group, self.weights
        values = PAGE * self.key_dim
        with serial(blocks, "block") as block:
            x = local("x", (group.block, n, width), registers=True)
            with unroll(group.block, "r") as r, unroll(n, "d") as d:
                store(x, (r, d, span(0, width)), acc[block * group.block + r, span(column + d * width, width)])
            with serial(tile.page_hi - tile.page_lo, "page_step") as page_step:
                p = let("p", tile.page_lo + page_step)
                begin = let("begin", T.max(tile.lo - p * PAGE, T.int64(0)))
                with serial(T.min(tile.hi - p * PAGE, T.int64(PAGE)) - begin, "step") as step:
                    t = let("t", begin + step)
                    if group.prefetch:
                        # The next tile's keys, which are as large and lie as far apart.
                        with unroll(-(-n // self.line), "d") as d:
                            tile.fetch(TILE_PAGES + p, t * self.value_dim + column + d * (self.line * LANES))
                    with unroll(n, "d") as d, unroll(group.block, "r") as r:
                        at = values + t * self.value_dim + column + d * width
                        value = widen(tile.at(p, span(at, width)), self.kv_dtype, width)
                        weight = full(s[block * group.block + r, p * PAGE + t], width)
                        store(x, (r, d, span(0, width)), fma_span(weight, value, x[r, d, span(0, width)], width))
            with unroll(group.block, "r") as r, unroll(n, "d") as d:
                store(acc, (block * group.block + r, span(column + d * width, width)), x[r, d, span(0, width)])
