"""The plan of a step against a plain loop over rows, what the division of work must cover, and errors of what does not fit."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.runtime.plans import KV_SEGMENT, PAGE, Division, PlanLayout, PlanSequence, build_plan
from heddle.runtime.plans.fill import NO_TREE
from heddle.runtime.plans.layout import (
    ARRAYS,
    DIRECT,
    HEADER,
    ITEM_FIELDS,
    MAX_WORKERS,
    MERGES,
    ROW_ITEMS,
    ROWS,
    SEQUENCES,
    TILE_FIELDS,
    TILES,
    WORKERS,
)
from heddle.runtime.plans.work import shared_prefixes

from .plan_tools import DIVISIONS, LAYOUT, ROOM, STEPS, sequence


def part(plan: np.ndarray, start: int, length: int) -> list[int]:
    return plan[start : start + length].tolist()


@given(STEPS, st.booleans(), DIVISIONS)
@settings(deadline=None)
def test_a_plan_is_what_a_loop_over_rows_gives(
    sequences: list[PlanSequence], rows_only: bool, division: Division
) -> None:
    out = np.full(ROOM, -1, np.int32)
    used, positions = build_plan(LAYOUT, out, sequences, rows_only=rows_only, division=division)

    slots, owners, where, limits, table, indptr = [], [], [], [], [], [0]
    for i, s in enumerate(sequences):
        for position in range(s.start, s.start + s.rows):
            slots.append(s.pages[position // PAGE] * PAGE + position % PAGE)
            owners.append(i)
            where.append(position)
            limits.append(position if s.causal else s.start + s.rows - 1)
        table += s.pages.tolist()
        indptr.append(len(table))

    assert (out[ROWS], out[SEQUENCES], out[WORKERS]) == (len(where), len(sequences), division.workers)
    assert part(out, WORKERS + 1, HEADER - WORKERS - 1) == [0] * (HEADER - WORKERS - 1)
    assert part(out, LAYOUT.slot, len(slots)) == slots
    assert part(out, LAYOUT.row_seq, len(owners)) == owners
    assert part(out, LAYOUT.limit, len(limits)) == limits
    assert part(out, LAYOUT.page_indptr, len(indptr)) == indptr
    assert part(out, LAYOUT.pages, len(table)) == table
    assert used == LAYOUT.pages + len(table)
    assert (out[used:] == -1).all()
    assert positions.dtype == np.int32
    assert positions.tolist() == where


@given(STEPS, st.booleans(), DIVISIONS)
@settings(deadline=None)
def test_every_segment_of_every_row_is_served_once(
    sequences: list[PlanSequence], rows_only: bool, division: Division
) -> None:
    out = np.full(ROOM, -1, np.int32)
    build_plan(LAYOUT, out, sequences, rows_only=rows_only, division=division)
    limits, states = part(out, LAYOUT.limit, out[ROWS]), part(out, LAYOUT.state, out[ROWS])
    positions = [p for s in sequences for p in range(s.start, s.start + s.rows)]
    causal = [s.causal for s in sequences for _ in range(s.rows)]
    served: list[list[int]] = [[] for _ in limits]
    needs = []
    for position, limit in zip(positions, limits, strict=True):
        seen = max(position - division.window + 1, 0) if division.window and not division.keep else 0
        needs.append(list(range(seen // KV_SEGMENT, limit // KV_SEGMENT + 1)))
    items = np.reshape(part(out, LAYOUT.row_item, out[ROW_ITEMS] * ITEM_FIELDS), (-1, ITEM_FIELDS))
    for row, first, end in items:
        served[row] += range(first, end)
        assert not causal[row] or set(range(first, end)) <= set(needs[row]), "nothing before the window"
    tiles = np.reshape(part(out, LAYOUT.tile, out[TILES] * TILE_FIELDS), (-1, TILE_FIELDS))
    assert not (rows_only and len(tiles))
    assert len(tiles) <= LAYOUT.max_tiles
    for start, count, first, end in tiles:
        assert 1 <= count <= LAYOUT.tile_rows
        members = part(out, LAYOUT.tile_row + start, count)
        assert len({states[row] == DIRECT for row in members}) == 1
        for row in members:
            served[row] += range(first, end)
    used: list[int] = []
    for row, needed in enumerate(needs):
        got = [s for s in served[row] if s in needed]
        assert sorted(got) == needed, "each once; a tile may bring what only its other rows need"
        if states[row] != DIRECT:
            used += [states[row] + segment for segment in needed]
    assert len(set(used)) == len(used)
    assert all(0 <= number < LAYOUT.max_states for number in used)
    assert part(out, LAYOUT.merge, out[MERGES]) == [row for row, state in enumerate(states) if state != DIRECT]
    for at, n in ((LAYOUT.row_work, len(items)), (LAYOUT.tile_work, len(tiles))):
        bounds = part(out, at, division.workers + 1)
        assert bounds == sorted(bounds)
        assert (bounds[0], bounds[-1]) == (0, n * LAYOUT.kv_heads)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6).filter(lambda rows: sum(rows) <= LAYOUT.max_tokens))
def test_every_split_of_the_rows_fits_the_tiles(rows: list[int]) -> None:
    out = np.zeros(LAYOUT.size(100), np.int32)
    build_plan(LAYOUT, out, [sequence(0, n) for n in rows], rows_only=False)
    assert out[TILES] <= LAYOUT.max_tiles


def test_shared_prefixes_are_whole_segments_of_equal_pages() -> None:
    a, b = np.arange(600), np.arange(600) + 1000
    late = np.concatenate([a[:300], b[300:]])
    once = np.concatenate([a[:255], b[255:]])
    starts = np.array([9000, 9000, 9000, 9000, 9000, 100])
    assert shared_prefixes([a, b, late, once, b, a], starts) == [([0, 2, 3], 1), ([1, 4], 4)]
    assert shared_prefixes([a, late], np.array([9000, 9000])) == [([0, 1], 2)]
    assert shared_prefixes([a, a], np.array([2047, 9000])) == []


def tiles_of(plan: np.ndarray, layout: PlanLayout = LAYOUT) -> list[tuple[list[int], int, int]]:
    """Rows, first and end segment of every tile."""
    tiles = np.reshape(part(plan, layout.tile, plan[TILES] * TILE_FIELDS), (-1, TILE_FIELDS)).tolist()
    return [(part(plan, layout.tile_row + start, count), first, end) for start, count, first, end in tiles]


def items_of(plan: np.ndarray, layout: PlanLayout = LAYOUT) -> list[list[int]]:
    """Row, first and end segment of every row item."""
    return np.reshape(part(plan, layout.row_item, plan[ROW_ITEMS] * ITEM_FIELDS), (-1, ITEM_FIELDS)).tolist()


def test_prefixes_are_served_once_for_each_group() -> None:
    def step(common: int) -> list[PlanSequence]:
        specs = [(9000, 1, 0, 600), (7000, 3, 1, common), (9000, 1, 0, 300), (9000, 1, 1, common), (9000, 1, 0, 600)]
        return [sequence(s, n, family=f, common=c, seed=i) for i, (s, n, f, c) in enumerate(specs)]

    plan = np.zeros(ROOM, np.int32)
    build_plan(LAYOUT, plan, step(256), rows_only=False)
    prefixes = [([0, 4, 6], 0, 2), ([1, 2, 3, 5], 0, 2)]
    assert tiles_of(plan) == [*prefixes, ([1, 2, 3], 2, 4)]
    assert items_of(plan) == [[0, 2, 5], [4, 2, 5], [5, 2, 5], [6, 2, 5]]
    assert part(plan, LAYOUT.merge, plan[MERGES]) == list(range(7))
    build_plan(LAYOUT, plan, step(255), rows_only=False)  # one page less: one segment less
    assert tiles_of(plan) == [prefixes[0], ([1, 2, 3, 5], 0, 1), ([1, 2, 3], 1, 4)]
    build_plan(LAYOUT, plan, step(127), rows_only=False)
    assert tiles_of(plan) == [prefixes[0], ([1, 2, 3], 0, 4)]
    for apart in ({"rows_only": True}, {"rows_only": False, "division": Division(cascade=False)}):
        build_plan(LAYOUT, plan, step(256), **apart)
        assert all(first == 0 for _, first, _ in items_of(plan) + tiles_of(plan))
        assert plan[MERGES] == 0


def test_what_no_window_reaches_is_not_served() -> None:
    plan = np.zeros(ROOM, np.int32)
    long, bidirectional = sequence(9000, 1), sequence(2000, 200, causal=False)
    division = Division(window=1000)
    build_plan(LAYOUT, plan, [long, sequence(5100, 30), bidirectional], rows_only=False, division=division)
    assert items_of(plan) == [[0, 3, 5]]
    tiles = tiles_of(plan)
    # The last row of the bidirectional sequence sees position 1200 and on, its first row 1001 and on.
    assert {(rows[0] > 30, first, end) for rows, first, end in tiles} == {(False, 2, 3), (True, 0, 2)}
    build_plan(LAYOUT, plan, [long], rows_only=True, division=dataclasses.replace(division, keep=True))
    assert items_of(plan) == [[0, 0, 5]], "sinks keep the first segment"


def test_trees_see_their_ancestors() -> None:
    plan = np.zeros(ROOM, np.int32)
    parents = np.array([-1, 0, 0, 2, -1, *range(4, 39)])
    tree = dataclasses.replace(sequence(100, 40), parents=parents)
    _, positions = build_plan(LAYOUT, plan, [sequence(7, 2), tree, sequence(50, 1)], rows_only=False)
    depth = [0, 1, 1, 2, *range(36)]
    assert positions.tolist() == [7, 8, *[100 + d for d in depth], 50]
    assert part(plan, LAYOUT.limit, 43) == [7, 8, *[139] * 40, 50]
    page, offset = np.divmod(np.arange(100, 140), PAGE)
    assert part(plan, LAYOUT.slot + 2, 40) == (tree.pages[page] * PAGE + offset).tolist()
    table = np.reshape(part(plan, LAYOUT.tree, 43 * LAYOUT.tree_fields), (43, LAYOUT.tree_fields))
    assert [*table[[0, 1, 42], 0], *table[[0, 1, 42], 1:].ravel()] == [NO_TREE] * 3 + [-1] * 6
    assert (table[2:42, 0] == 100).all()
    for i in range(40):
        ancestors, node = set(), i
        while node >= 0:
            ancestors.add(node)
            node = int(parents[node])
        words = table[2 + i, 1:].astype(np.int32).view(np.uint32).tolist()
        assert {j for j in range(64) if words[j // 32] >> (j % 32) & 1} == ancestors


def test_workers_get_about_the_same() -> None:
    layout = PlanLayout(16, 8, kv_heads=1)
    sequences = [sequence(length - 1, 1) for length in (8192, 512, 4096, 2048, 1024, 700)]
    out = np.zeros(layout.size(2000), np.int32)
    build_plan(layout, out, sequences, rows_only=True, division=Division(workers=3))
    items = np.reshape(part(out, layout.row_item, out[ROW_ITEMS] * ITEM_FIELDS), (-1, ITEM_FIELDS))
    limits = np.array(part(out, layout.limit, 6))
    costs = np.minimum(items[:, 2] * KV_SEGMENT, limits[items[:, 0]] + 1) - items[:, 1] * KV_SEGMENT
    bounds = part(out, layout.row_work, 4)
    shares = [int(costs[a:b].sum()) for a, b in itertools.pairwise(bounds)]
    assert max(shares) <= 1.4 * sum(shares) / 3


def test_arrays_are_aligned_and_apart() -> None:
    for layout in (LAYOUT, PlanLayout(1, 1), PlanLayout(2048, 64, tree_words=4)):
        n = layout.max_tokens
        lengths = [n] * 4 + [layout.max_row_items * ITEM_FIELDS, 2 * n, layout.max_tiles * TILE_FIELDS, n]
        lengths += [MAX_WORKERS + 1] * 2 + [n * layout.tree_fields, layout.max_seqs + 1]
        starts = [getattr(layout, name) for name in ARRAYS]
        assert starts[0] == HEADER
        assert all(start % 16 == 0 for start in starts)
        assert all(a + n <= b for a, n, b in zip(starts, lengths, starts[1:], strict=False))
        assert layout.size(7) == layout.pages + 7


@pytest.mark.parametrize(
    ("heads", "kv_heads", "rows"), [(14, 2, 8), (32, 8, 8), (8, 8, 32), (71, 1, 8), (6, 1, 8), (16, 1, 2), (5, 1, 8)]
)
def test_tiles_fill_their_registers(heads: int, kv_heads: int, rows: int) -> None:
    layout = PlanLayout.of(8, 1, heads=heads, kv_heads=kv_heads)
    assert layout.tile_rows == rows
    assert layout.tile_rows * heads // kv_heads >= 32
    assert layout.tile_rows * heads // kv_heads % 8 == 0


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([sequence(0, 1)] * 7, "7 sequences in one step.*max_seqs=6"),
        ([sequence(0, 100), sequence(0, 201)], "301 new rows in one step.*max_tokens=300"),
        ([sequence(0, 1), sequence(3, 0)], "sequence 1 has 0 new rows from position 3"),
        ([PlanSequence(np.zeros(1, np.int32), -1, 2)], "sequence 0 has 2 new rows from position -1"),
        (
            [sequence(0, 16), sequence(0, 16, spare=-1)],
            "sequence 1 has 0 pages, but its last row at position 15 needs 1",
        ),
        ([sequence(0, 1, spare=20)], r"the plan needs \d+ elements \(21 page table entries\)"),
        (
            [PlanSequence(np.zeros(1, np.int32), 0, 2, parents=np.array([-1, 1]))],
            r"parents\[1\] is 1: a parent is an earlier row",
        ),
        ([PlanSequence(np.zeros(1, np.int32), 0, 2, parents=np.array([-1]))], "a tree of 1 parents for 2 rows"),
        ([PlanSequence(np.zeros(5, np.int32), 0, 65, parents=np.arange(65) - 1)], "a tree of 65 rows.* room for 64"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_vector(sequences: list[PlanSequence], message: str) -> None:
    out = np.full(LAYOUT.size(20), -1, np.int32)
    with pytest.raises(ValueError, match=message):
        build_plan(LAYOUT, out, sequences, rows_only=False)
    assert (out == -1).all()


def test_the_vector_is_int32() -> None:
    with pytest.raises(ValueError, match="int32 vector, not int64"):
        build_plan(LAYOUT, np.zeros(LAYOUT.size(1), np.int64), [sequence(0, 1)], rows_only=True)


def test_trees_and_workers_need_room() -> None:
    out = np.zeros(PlanLayout(8, 1).size(1), np.int32)
    tree = PlanSequence(np.zeros(1, np.int32), 0, 1, parents=np.array([-1]))
    with pytest.raises(ValueError, match="tree_words=0"):
        build_plan(PlanLayout(8, 1), out, [tree], rows_only=True)
    with pytest.raises(ValueError, match="300 workers; allowed are 1 to 256"):
        build_plan(PlanLayout(8, 1), out, [sequence(0, 1)], rows_only=True, division=Division(workers=300))
    with pytest.raises(ValueError, match="a window of -1 tokens"):
        build_plan(PlanLayout(8, 1), out, [sequence(0, 1)], rows_only=True, division=Division(window=-1))


def test_a_layout_has_room_for_something() -> None:
    with pytest.raises(ValueError, match="room for one row, one sequence"):
        PlanLayout(0, 1)
