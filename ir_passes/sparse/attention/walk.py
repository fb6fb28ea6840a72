"""The walk of attention over paged tiles: workers, units, rows, segments, tiles and pages, and the states that they leave.

This is the lowering of a softmax reduction over the format `paged_tiles`. Tiles of 128 and segments of 2048 tokens lie at fixed
absolute positions; a segment has a state of its own, and segments merge in ascending order, in registers if one task walks
all of them and through memory otherwise. So a query's result depends on its position alone (docs/numerics.md). The inside of
a tile is a micro-kernel: raw scores, and weighted values.
"""

from __future__ import annotations

import dataclasses

from ....runtime.plans import KV_SEGMENT, KV_TILE, PAGE
from ....runtime.plans.layout import FAR
from ....schedules.compat import T
from ....schedules.cpu.attention_group import Group
from ....schedules.cpu.attention_tile import TILE_PAGES, FloatTile, KVTile
from ....schedules.cpu.attention_tile_expression import ExpressionTile, separate, shared
from ....schedules.cpu.attention_tile_int8 import Int8Tile
from ....schedules.cpu.softmax_state import MASKED, SoftmaxState, sum_lanes
from ....schedules.cpu.spans import span
from ....schedules.emit import Buffer, Value, i64, let, local, serial, settle, store, unroll, when
from ....schedules.lanes import in_lanes, vector
from ....schedules.target import TargetProfile
from ....schedules.vector import LANES, Vec, const, lanes
from .finish import store_query
from .spec import AttentionSpec
from .variant import Variant, bounds

SEGMENT_TILES = KV_SEGMENT // KV_TILE


@dataclasses.dataclass(frozen=True)
class Operands:
    """The buffers of an attention kernel, and the layer."""

    q: Buffer
    positions: Buffer
    plan: Buffer
    cache: Buffer
    layer: Value
    states: Buffer
    out: Buffer
    sink_logits: Buffer | None

    def number(self, at: Value) -> Value:
        """An entry of the plan as int64."""
        return T.cast(self.plan[at], "int64")


def tile_body(spec: AttentionSpec, group: Group, target: TargetProfile) -> FloatTile | Int8Tile:
    """What computes the inside of a tile: the micro-kernel of the storage, or its expressions."""
    if spec.kv_dtype == "int8":
        return Int8Tile(group, spec.key_dim, spec.value_dim, target)
    if spec.shared_values or spec.body == "expressions":
        place = (shared if spec.shared_values else separate)(spec.key_dim, spec.value_dim)
        return ExpressionTile(group, spec.key_dim, spec.value_dim, spec.kv_dtype, place)
    return FloatTile(group, spec.key_dim, spec.value_dim, spec.kv_dtype)


class Walk:
    """The tasks of one worker: arrays that live as long as the worker, and the statements of one task."""

    def __init__(
        self, spec: AttentionSpec, group: Group, operands: Operands, variant: Variant, target: TargetProfile
    ) -> None:
        self.spec, self.group, self.operands, self.variant = spec, group, operands, variant
        self.tile = tile_body(spec, group, target)
        self.state = SoftmaxState(group.padded, -(-spec.value_dim // LANES))
        self.row = local("query_row", (group.padded,), "int64")
        self.first = local("query_first", (group.padded,), "int32")
        self.limit = local("query_limit", (group.padded,), "int32")
        self.reach = local("reach", (2,), "int64")
        self.page = local("page", (2 * TILE_PAGES,), "int64")

    def task(self, rows: Value, row_at: Value | None, row: Value, head: Value, first: Value, end: Value) -> None:
        """Serve `rows` rows (those from plan entry `row_at` on; or the one `row`) of one kv head over segments [first, end)."""
        operands = self.operands
        count = let("count", rows * self.group.heads)
        blocks = let("blocks", T.truncdiv(count + (self.group.block - 1), i64(self.group.block)))
        queries = let("queries", blocks * self.group.block)
        self._load(rows, row_at, row, head, count, queries)
        leader = let("leader", self.row[0])
        table = let(
            "table",
            self.spec.layout.pages
            + operands.number(self.spec.layout.page_indptr + operands.number(self.spec.layout.row_seq + leader)),
        )
        kept = let("kept", operands.plan[self.spec.layout.state + leader] >= T.int32(-(1 << 29)))
        lo, hi = let("lo", self.reach[0]), let("hi", self.reach[1])
        first_segment = let("first_segment", T.max(first, T.truncdiv(lo, i64(KV_SEGMENT))))
        end_segment = let("end_segment", T.min(end, T.truncdiv(hi + (KV_SEGMENT - 1), i64(KV_SEGMENT))))
        # Sinks lie in segment 0, which is walked before those that the window reaches.
        extra: Value = T.int64(0)
        if self.spec.sinks:
            extra = settle("extra", T.cast(T.Select(T.And(first == 0, first_segment > 0), 1, 0), "int64"))
        with serial(T.max(end_segment - first_segment, T.int64(0)) + extra, "passed") as passed:
            segment = let("segment", first_segment + passed)
            if self.spec.sinks:
                segment = settle("segment", T.Select(passed < extra, T.int64(0), segment - extra))
            self.state.reset(queries)
            self._segment(segment, lo, hi, table, head, blocks, queries)
            with serial(count, "r") as r:
                seen = let("seen", self._sees(r, segment))
                with when(T.And(seen, kept)):
                    self._keep(r, segment, head)
                begin = 0 if self.spec.sinks else T.truncdiv(i64(self.first[r]), i64(KV_SEGMENT))
                starts = let("starts", segment == begin)
                with when(T.And(T.And(seen, T.Not(kept)), starts)):
                    self.state.copy(r)
                with when(T.And(T.And(seen, T.Not(kept)), T.Not(starts))):
                    self.state.merge(r)
        with when(T.Not(kept)), serial(count, "r") as r:
            query_head = let("query_head", head * self.spec.sharing + T.truncmod(r, i64(self.group.heads)))
            store_query(self.spec, self.operands.out, self.operands.sink_logits, self.state, r, self.row[r], query_head)

    def _load(self, rows: Value, row_at: Value | None, row: Value, head: Value, count: Value, queries: Value) -> None:
        """Take the queries, and the reach [lo, hi) of all of them together."""
        spec, operands, heads = self.spec, self.operands, self.group.heads
        store(self.reach, 0, T.int64(FAR))
        store(self.reach, 1, T.int64(0))
        with serial(rows, "i") as i:
            at = row if row_at is None else let("at", operands.number(row_at + i))
            position, limit = operands.positions[at], operands.plan[spec.layout.limit + at]
            first, last = bounds(spec, position, limit)
            first, last = let("first_seen", first), let("last_seen", last)
            store(self.reach, 0, T.min(self.reach[0], i64(first)))
            store(self.reach, 1, T.max(self.reach[1], i64(last) + 1))
            with serial(heads, "g") as g:
                r = let("r", i * heads + g)
                store(self.row, r, at)
                store(self.first, r, first)
                store(self.limit, r, last)
                column = let("column", (head * spec.sharing + g) * spec.key_dim)
                self.tile.load(r, lambda d, n: operands.q[at, span(column + d, n)], spec.scale)
        with serial(queries - count, "filler") as filler:
            r, last_query = let("r", count + filler), let("last_query", count - 1)
            for array in (self.row, self.first, self.limit):
                store(array, r, array[last_query])
            self.tile.repeat(r, last_query)

    def _segment(
        self, segment: Value, lo: Value, hi: Value, table: Value, head: Value, blocks: Value, queries: Value
    ) -> None:
        """All tiles of one segment that some query sees."""
        spec = self.spec
        first_tile = let("first_tile", T.max(T.truncdiv(lo, i64(KV_TILE)), segment * SEGMENT_TILES))
        end_tile = let("end_tile", T.min(T.truncdiv(hi + (KV_TILE - 1), i64(KV_TILE)), (segment + 1) * SEGMENT_TILES))
        extra: Value = T.int64(0)
        sink_tiles = -(-spec.sinks // KV_TILE)
        if spec.sinks:
            extra = settle("extra", T.Select(segment == 0, T.min(first_tile, T.int64(sink_tiles)), T.int64(0)))
        with serial(T.max(end_tile - first_tile, T.int64(0)) + extra, "step") as step:
            if spec.sinks:
                tile = settle("tile", T.Select(step < extra, step, first_tile + step - extra))
                lowest = settle("lowest", T.Select(tile < sink_tiles, T.int64(0), lo))
                highest = settle("highest", T.Select(step < extra, T.min(T.int64(spec.sinks), hi), hi))
            else:
                tile, lowest, highest = let("tile", first_tile + step), lo, hi
            token_lo = let("token_lo", T.max(lowest - tile * KV_TILE, T.int64(0)))
            token_hi = let("token_hi", T.min(highest - tile * KV_TILE, T.int64(KV_TILE)))
            page_lo = let("page_lo", T.truncdiv(token_lo, i64(PAGE)))
            page_hi = let("page_hi", T.truncdiv(token_hi + (PAGE - 1), i64(PAGE)))
            # Entries of pages that no query sees are not used: they may be gone. The first page, which every query sees where
            # there are sinks, stands for those between sinks and window.
            last_page = let("last_page", T.truncdiv(highest - 1, i64(PAGE)))
            first_page = let("first_page", T.truncdiv(lowest, i64(PAGE)))
            with unroll(TILE_PAGES, "p") as p:
                here = T.min(T.max(tile * TILE_PAGES + p, first_page), last_page)
                if spec.sinks:
                    unseen = T.And(here >= -(-spec.sinks // PAGE), here < T.truncdiv(lo, i64(PAGE)))
                    here = T.Select(unseen, T.int64(0), here)
                store(self.page, p, self.operands.number(table + here))
                there = T.min((tile + 1) * TILE_PAGES + p, last_page)
                store(self.page, TILE_PAGES + p, self.operands.number(table + there))
            kv = KVTile(
                self.operands.cache, self.page, (self.operands.layer, head), page_lo, page_hi, token_lo, token_hi
            )

            def finish(query: Value, page: Value, x: Vec, tile: Value = tile) -> Vec:
                return self._finish(query, head, T.cast(tile * KV_TILE + page * PAGE, "int32"), x)

            self.tile.score(kv, blocks, finish)
            self.state.update(self.tile.weights, queries, TILE_PAGES, self.tile.observer(kv))
            self.tile.accumulate(kv, blocks, self.state.acc)

    def _finish(self, query: Value, head: Value, token: Value, x: Vec) -> Vec:
        """Scores of 16 tokens from their raw scores: the variant's expressions, in lanes."""
        v = self.variant
        values = {
            v.raw: x,
            v.token: lanes(token),
            v.row: self.row[query],
            v.first: self.first[query],
            v.limit: self.limit[query],
            v.head: head * self.spec.sharing + T.truncmod(query, i64(self.group.heads)),
        }
        return T.Select(in_lanes(v.visible, values), vector(in_lanes(v.score, values)), const(MASKED))

    def _sees(self, r: Value, segment: Value) -> Value:
        """Whether query r sees anything of a segment."""
        first, limit = (T.truncdiv(i64(a[r]), i64(KV_SEGMENT)) for a in (self.first, self.limit))
        seen = T.And(segment >= first, segment <= limit)
        return T.Or(seen, segment == 0) if self.spec.sinks else seen

    def _keep(self, r: Value, segment: Value, head: Value) -> None:
        """Write the segment's state of query r to memory."""
        states, columns = self.operands.states, self.state.columns
        number = let("number", self.operands.number(self.spec.layout.state + self.row[r]) + segment)
        query_head = let("query_head", head * self.spec.sharing + T.truncmod(r, i64(self.group.heads)))
        with serial(columns, "d") as d:
            store(states, (number, query_head, lanes(d * LANES)), self.state.acc[r, lanes(d * LANES)])
        store(states, (number, query_head, columns * LANES), self.state.peak[r, 0])
        store(states, (number, query_head, columns * LANES + 1), sum_lanes(self.state.total[r, lanes(0)]))
