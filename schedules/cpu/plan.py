"""The plan builder as a compiled function: `runtime.plans.fill` bit by bit, in scalar code on one thread.

NumPy needs calls of its own for every pair of page tables and every tile; here these are a few instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.plans import KV_SEGMENT, PAGE, Division, PlanLayout
from ...runtime.plans.fill import NO_TREE, fill_plan
from ...runtime.plans.layout import DIRECT, FAR, HEADER, ROWS
from ...runtime.plans.step import CAUSAL, NEW_ROWS, OPTIONS, PAGES, SEQUENCE_FIELDS, START
from ...runtime.plans.work import SEGMENT_PAGES
from ..compat import PrimFunc, T, finish, tirx
from ..emit import Value, buffer, i64, let, local, otherwise, prim_func, serial, settle, store, when
from ..registry import Case, Cost, Tolerance, kernel
from ..target import TargetProfile
from .plan_step import Costs, Count, Step


def list_rows(step: Step) -> None:
    """What every row has of its own, and where the sequences' pages begin."""
    layout, pages = step.layout, Count("pages")
    with serial(step.count, "s") as s:
        start, last = (
            let("start", step.field(s, START)),
            let("last", step.field(s, START) + step.field(s, NEW_ROWS) - 1),
        )
        causal = let("causal", step.field(s, CAUSAL) != 0)
        store(step.first_row, s, step.n.value)
        store(step.group, s, i64(0))
        step.put(layout.page_indptr + s, pages.value)
        with step.rows_of(s) as row:
            index = let("index", start + row - step.first_row[s])
            page = let("page", step.number(layout.pages + pages.value + T.truncdiv(index, i64(PAGE))))
            step.put(layout.slot + row, page * PAGE + T.truncmod(index, i64(PAGE)))
            step.put(layout.row_seq + row, s)
            step.put(layout.limit + row, T.Select(causal, index, last))
            step.put(layout.state + row, DIRECT)
            store(step.positions, row, T.cast(index, "int32"))
            if layout.tree_words:
                step.put(layout.tree + row * layout.tree_fields, NO_TREE, *[-1] * layout.tree_words)
            backward = T.truncdiv(T.max(T.Select(causal, index, start) - step.window + 1, i64(0)), i64(KV_SEGMENT))
            store(step.first, row, T.Select(step.window > 0, backward, i64(0)))
        step.n.add(step.field(s, NEW_ROWS))
        pages.add(step.field(s, PAGES))
    step.put(layout.page_indptr + step.count, pages.value)


def share_prefixes(step: Step) -> None:
    """Group the sequences whose page tables begin alike, and serve what each group shares."""
    shared, members, same = Count("shared"), Count("members"), Count("same")
    with serial(step.count, "i") as i, when(T.And(step.group[i] == 0, step.whole(i) > 0)):
        shared.set(step.whole(i))
        members.set(1)
        store(step.group, i, i + 1)
        with serial(step.count - i - 1, "later") as later:
            j = let("j", i + 1 + later)
            with when(T.And(step.group[j] == 0, step.whole(j) > 0)):
                count_shared(step, same, i, j, T.min(shared.value, step.whole(j)))
                with when(same.value > 0):
                    store(step.group, j, i + 1)
                    shared.set(same.value)
                    members.add(1)
        with when(members.value > 1):
            serve_prefix(step, i, shared.value)


def count_shared(step: Step, same: Count, i: Value, j: Value, most: Value) -> None:
    """Count the segments at the beginning of two page tables that are equal, `most` at most."""
    layout, plan = step.layout, step.plan
    a, b = (let(name, layout.pages + step.number(layout.page_indptr + s)) for name, s in (("a", i), ("b", j)))
    same.set(0)
    with when(plan[a] == plan[b]), serial(most, "segment") as segment, when(same.value == segment):
        differing = local("differing", (1,), "int32", registers=True)
        store(differing, 0, T.int32(0))
        with serial(SEGMENT_PAGES, "p") as p:
            at = segment * SEGMENT_PAGES + p
            store(differing, 0, T.bitwise_or(differing[0], T.bitwise_xor(plan[a + at], plan[b + at])))
        with when(differing[0] == 0):
            same.add(1)


def serve_prefix(step: Step, leader: Value, shared: Value) -> None:
    """Tiles that cross sequences, over the first `shared` segments of the leader's group, if their states fit."""

    def member(s: Value) -> Value:
        return step.group[s] == leader + 1

    tile, first, needed = step.tile, Count("group_first", FAR), Count("needed")
    with step.rows_where(member, leader) as row:
        first.set(T.min(first.value, step.first[row]))
        needed.add(step.end(row) - step.first[row])
    fits = step.states.value + needed.value <= step.layout.max_states
    with when(T.And(shared > first.value, fits)):
        with step.rows_where(member, leader) as row:
            step.keep(row)
            tile.add(row)
            store(step.first, row, T.max(step.first[row], shared))
            with when(tile.rows.value == step.layout.tile_rows):
                tile.close(first.value, shared)
        with when(tile.rows.value > 0):
            tile.close(first.value, shared)


def serve_rows(step: Step) -> None:
    """Items of rows that are served one by one, split where workers would have nothing to do."""

    def single(s: Value) -> Value:
        return T.Not(step.tiled(s))

    layout, workers = step.layout, step.workers
    cost, wanted = Count("cost"), Count("wanted", step.states.value)
    with step.rows_where(single, i64(0)) as row:
        cost.add(step.limit(row) + 1 - step.first[row] * KV_SEGMENT)
    even = T.Or(workers == 1, T.truncmod(i64(layout.kv_heads), workers) == 0)
    share = T.truncdiv(cost.value * layout.kv_heads, workers * (2 * KV_SEGMENT))
    piece = settle("piece", T.Select(even, i64(0), T.max(share, i64(1))))
    with step.rows_where(single, i64(0)) as row:
        segments = let("segments", step.end(row) - step.first[row])
        direct = let("direct", step.plan[layout.state + row] == DIRECT)
        with when(T.And(T.And(piece > 0, segments > piece), direct)):
            wanted.add(segments)  # also of a row that finds no room: no later one finds any
            with when(wanted.value <= layout.max_states):
                step.keep(row)
        split = T.And(step.plan[layout.state + row] != DIRECT, piece > 0)
        length = settle("length", T.Select(split, piece, segments))
        with serial(T.truncdiv(segments + length - 1, length), "number") as number:
            begin = let("begin", step.first[row] + number * length)
            step.item(row, begin, let("end", T.min(begin + length, step.end(row))))


def serve_tiles(step: Step) -> None:
    """Tiles of the sequences with several rows; a tile is all direct or all kept, as its sequence is."""
    tile = step.tile
    with serial(step.count, "s") as s, when(step.tiled(s)):
        with step.rows_of(s) as row:
            tile.add(row)
            with when(tile.rows.value == step.layout.tile_rows):
                tile.close(tile.first.value, tile.end.value)
        with when(tile.rows.value > 0):
            tile.close(tile.first.value, tile.end.value)


def list_merges(step: Step) -> None:
    """The rows whose states are merged."""
    with serial(step.n.value, "row") as row, when(step.plan[step.layout.state + row] != DIRECT):
        step.put(step.layout.merge + step.merges.value, row)
        step.merges.add(1)


def divide(step: Step, at: int, costs: Costs) -> None:
    """Bounds of runs of units of about equal cost, each found by bisection over the sums of costs."""
    heads, items, total = step.layout.kv_heads, let("items", costs.number.value), let("total", costs.total.value)
    low, high = Count("low"), Count("high")
    with when(items > 0), serial(step.workers, "worker") as worker:
        wanted = let("wanted", T.truncdiv(worker * (total * heads), step.workers))
        rest = let("rest", T.truncmod(wanted, total))
        low.set(0)
        high.set(items)
        with serial(costs.most.bit_length(), "halving"), when(low.value < high.value):
            middle = let("middle", T.truncdiv(low.value + high.value, i64(2)))
            above = let("above", costs.ends[middle] > rest)
            with when(above):
                high.set(middle)
            with otherwise(above):
                low.set(middle + 1)
        step.put(at + worker, T.truncdiv(wanted, total) * items + low.value)
    with when(items == 0), serial(step.workers, "worker") as worker:
        step.put(at + worker, 0)
    step.put(at + step.workers, items * heads)


def _layout(max_tokens: int, max_seqs: int, kv_heads: int, tile_rows: int, tree_words: int) -> PlanLayout:
    return PlanLayout(max_tokens, max_seqs, kv_heads, tile_rows, tree_words)


def _reference(
    sequences: np.ndarray, options: np.ndarray, plan: np.ndarray, positions: np.ndarray, **params: Any
) -> tuple[np.ndarray, ...]:
    fill_plan(_layout(**params), sequences, options, plan, positions)
    return plan, positions


def _inputs(
    rng: np.random.Generator,
    *,
    seqs: int,
    start: int,
    new: int,
    shared: int = 0,
    workers: int = 2,
    window: int = 0,
    rows_only: int = 0,
    **params: Any,
) -> list[np.ndarray]:
    """`seqs` sequences, the i-th with `new` + i % 2 rows from position start + 13 * i; their first `shared` pages are equal."""
    layout = _layout(**params)
    sequences = np.zeros((layout.max_seqs, SEQUENCE_FIELDS), np.int32)
    for i in range(seqs):
        begin, rows = start + 13 * i, new + i % 2
        sequences[i] = begin, rows, i % 3 < 2, -(-(begin + rows) // PAGE) + i % 2
    tables = [rng.permutation(1 << 20)[:pages].astype(np.int32) for pages in sequences[:seqs, PAGES]]
    for table in tables[1:]:
        table[:shared] = tables[0][:shared]
    plan = np.full(layout.size(sum(map(len, tables))), 7, np.int32)
    plan[layout.pages :] = np.concatenate(tables)
    options = np.array(Division(workers, window).options(seqs, bool(rows_only)), np.int32)
    return [sequences, options, plan, np.full(layout.max_tokens, 7, np.int32)]


_SMALL = {"max_tokens": 256, "max_seqs": 16, "kv_heads": 2, "tile_rows": 8, "tree_words": 0}


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=lambda *, seqs, start, new, **_: Cost(bytes=4 * seqs * (start // PAGE + 8 * new), flops=0),
    tolerance=Tolerance(0.0, "integers"),
    cases=[
        Case(_SMALL, {"seqs": 1, "start": 0, "new": 100}),
        Case(_SMALL | {"tree_words": 2}, {"seqs": 9, "start": 5000, "new": 1, "workers": 3}),
        Case(_SMALL, {"seqs": 16, "start": 8191, "new": 1, "rows_only": 1, "workers": 5}),
        Case(_SMALL, {"seqs": 12, "start": 6000, "new": 11, "shared": 300, "workers": 3}),
        Case(_SMALL, {"seqs": 12, "start": 20000, "new": 1, "shared": 700, "workers": 4, "window": 9000}),
        Case(_SMALL | {"kv_heads": 1}, {"seqs": 3, "start": 9000, "new": 40, "workers": 7, "window": 4096}),
    ],
    num_outputs=0,
    inplace=(2, 3),
)
def build_plan(
    *, max_tokens: int, max_seqs: int, kv_heads: int, tile_rows: int, tree_words: int, target: TargetProfile
) -> PrimFunc:
    """sequences [max_seqs, 4], options [5], plan [p], positions [max_tokens], all int32 -> the last two filled in place.

    `runtime.plans.StepArrays` says what they hold. Nothing is checked: `PlanBuilder` refuses what does not fit.
    """
    layout = _layout(max_tokens, max_seqs, kv_heads, tile_rows, tree_words)
    buffers = [
        buffer("sequences", (max_seqs, SEQUENCE_FIELDS), "int32"),
        buffer("options", (OPTIONS,), "int32"),
        buffer("plan", (tirx.Var("p", "int64"),), "int32"),
        buffer("positions", (max_tokens,), "int32"),
    ]
    with prim_func(buffers) as made:
        step = Step(layout, *buffers)
        list_rows(step)
        with when(step.cascade != 0):
            share_prefixes(step)
        serve_rows(step)
        serve_tiles(step)
        list_merges(step)
        divide(step, layout.row_work, step.items)
        divide(step, layout.tile_work, step.tiles)
        step.put(0, *[0] * HEADER)
        counts = (step.n, step.items.number, step.tiles.number, step.merges)
        n, items, tiles, merges = (count.value for count in counts)
        step.put(ROWS, n, step.count, items, tiles, merges, step.workers)
    return finish(made[0])
