"""The plan of a step against a plain loop over rows, and the errors of what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heddle.runtime.plans import PAGE, TILE_ROWS, PlanLayout, PlanSequence, build_plan
from heddle.runtime.plans.build import TILE_FROM
from heddle.runtime.plans.layout import HEADER, TILE_FIELDS

LAYOUT = PlanLayout(max_tokens=300, max_seqs=6)


def sequence(start: int, rows: int, spare: int = 0, first_page: int = 0) -> PlanSequence:
    """A sequence whose pages count down to `first_page`, with `spare` pages more than it needs."""
    pages = -(-(start + rows) // PAGE) + spare
    return PlanSequence(np.arange(first_page + pages, first_page, -1, dtype=np.int32), start, rows)


SEQUENCES = st.lists(
    st.builds(sequence, st.integers(0, 500), st.integers(1, 50), st.integers(0, 3), st.integers(0, 10_000)), max_size=6
)


def part(plan: np.ndarray, start: int, length: int) -> list[int]:
    return plan[start : start + length].tolist()


@given(SEQUENCES, st.booleans())
def test_a_plan_is_what_a_loop_over_rows_gives(sequences: list[PlanSequence], rows_only: bool) -> None:
    out = np.full(LAYOUT.size(500), -1, np.int32)
    used, positions = build_plan(LAYOUT, out, sequences, rows_only=rows_only)

    slots, owners, tasks, tiles, where, table, indptr = [], [], [], [], [], [], [0]
    for i, s in enumerate(sequences):
        if not rows_only and s.rows >= TILE_FROM:
            for done in range(0, s.rows, TILE_ROWS):
                tiles += [len(where) + done, min(TILE_ROWS, s.rows - done), s.start + done, i]
        else:
            tasks += range(len(where), len(where) + s.rows)
        for position in range(s.start, s.start + s.rows):
            slots.append(s.pages[position // PAGE] * PAGE + position % PAGE)
            owners.append(i)
            where.append(position)
        table += s.pages.tolist()
        indptr.append(len(table))

    assert part(out, 0, HEADER) == [len(where), len(tasks), len(tiles) // TILE_FIELDS, len(sequences)] + [0] * (
        HEADER - 4
    )
    assert part(out, LAYOUT.slot, len(slots)) == slots
    assert part(out, LAYOUT.row_seq, len(owners)) == owners
    assert part(out, LAYOUT.row_task, len(tasks)) == tasks
    assert part(out, LAYOUT.tiles, len(tiles)) == tiles
    assert part(out, LAYOUT.page_indptr, len(indptr)) == indptr
    assert part(out, LAYOUT.pages, len(table)) == table
    assert used == LAYOUT.pages + len(table)
    assert (out[used:] == -1).all()
    assert positions.dtype == np.int32
    assert positions.tolist() == where


@given(st.lists(st.integers(1, 300), min_size=1, max_size=6).filter(lambda rows: sum(rows) <= LAYOUT.max_tokens))
def test_every_split_of_the_rows_fits_the_tiles(rows: list[int]) -> None:
    out = np.zeros(LAYOUT.size(100), np.int32)
    build_plan(LAYOUT, out, [sequence(0, n) for n in rows], rows_only=False)
    assert out[2] <= LAYOUT.max_tiles


def test_arrays_are_aligned_and_apart() -> None:
    for layout in (LAYOUT, PlanLayout(1, 1), PlanLayout(2048, 64)):
        starts = [layout.slot, layout.row_seq, layout.row_task, layout.tiles, layout.page_indptr, layout.pages]
        lengths = [layout.max_tokens] * 3 + [layout.max_tiles * TILE_FIELDS, layout.max_seqs + 1]
        assert all(start % 16 == 0 for start in starts)
        assert all(a + n <= b for a, n, b in zip(starts, lengths, starts[1:], strict=False))
        assert layout.size(7) == layout.pages + 7


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


def test_a_layout_has_room_for_something() -> None:
    with pytest.raises(ValueError, match="room for one row and one sequence"):
        PlanLayout(0, 1)
