"""Attention's format: pages of the KV cache as a walk, and the plan of a step, drawn.

`paged` says in the language of formats what `attention/walk.py` walks; the kernel there is written over explicit vectors, and
`runtime/plans/layout.py` says where its arrays stand.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....runtime.plans import PAGE, PlanLayout
from ....runtime.plans.layout import (
    DIRECT,
    ITEM_FIELDS,
    MERGES,
    ROW_ITEMS,
    ROWS,
    SEQUENCES,
    TILE_FIELDS,
    TILES,
    WORKERS,
)
from ....schedules.compat import T
from ..axes import DenseFixed, Point, SparseVariable, Value, buffer, index
from ..format import Format


def paged(sequences: Value, tokens: Value, pages: Value, entries: Value, name: str = "paged") -> Format:
    """Page tables [sequences + 1] and [entries] over a pool of `pages` pages, and the lengths [sequences] of the sequences.

        sequence     0            1          page size 4, lengths 6 and 3
        pages        5   2        0
        tokens       0123 45..    012.       slots of token 4 and 5 of sequence 0: 2 * 4 and 2 * 4 + 1

    Coordinates are (sequence, token, slot): keys and values are dense tensors over slots, and no entry has a value of its own.
    """
    lengths = buffer(f"{name}_lengths", (sequences,), "int32")
    levels = (
        DenseFixed("S", sequences),
        SparseVariable("P", pages, entries, sequences, f"{name}_", ordered=False),
        DenseFixed("T", PAGE),
    )

    def token(page: Point, t: Point) -> Value:
        return page.rel * PAGE + t.coord

    def coords(s: Point, page: Point, t: Point) -> tuple[Value, Value, Value]:
        return s.coord, T.min(token(page, t), index(tokens) - 1), page.coord * PAGE + t.coord

    return Format(name, levels, coords, lambda s, page, t: token(page, t) < index(lengths[s.coord]), (lengths,))


def draw_plan(layout: PlanLayout, plan: np.ndarray) -> str:
    """The division of a step's attention: what every worker does, and what is merged afterwards."""
    counts = [int(plan[field]) for field in (ROWS, SEQUENCES, ROW_ITEMS, TILES, MERGES, WORKERS)]
    rows, sequences, items, tiles, merges, workers = counts
    lines = [f"{rows} rows of {sequences} sequences; {items} row items, {tiles} tiles, {merges} rows to merge", ""]
    lines += [f"{'row':>3}  {'sequence':>8}  {'limit':>5}  {'page:offset':>11}  state"]
    for row in range(rows):
        slot, seq, limit, state = (
            int(plan[at + row]) for at in (layout.slot, layout.row_seq, layout.limit, layout.state)
        )
        kept = "in registers" if state == DIRECT else f"segment s in state {state} + s"
        lines.append(f"{row:>3}  {seq:>8}  {limit:>5}  {f'{slot // PAGE}:{slot % PAGE}':>11}  {kept}")
    for worker in range(workers):
        lines += ["", f"worker {worker}"]
        lines += [
            f"  row item  kv head {head}  {_item(layout, plan, at)}"
            for head, at in _units(layout, plan, layout.row_work, items, worker)
        ]
        lines += [
            f"  tile      kv head {head}  {_tile(layout, plan, at)}"
            for head, at in _units(layout, plan, layout.tile_work, tiles, worker)
        ]
    lines += [
        "",
        f"merge     rows {' '.join(str(row) for row in plan[layout.merge : layout.merge + merges]) or 'none'}",
    ]
    return "\n".join(lines)


def _units(layout: PlanLayout, plan: np.ndarray, work: int, count: int, worker: int) -> Iterator[tuple[int, int]]:
    """(kv head, item) of all units of a worker."""
    for unit in range(int(plan[work + worker]), int(plan[work + worker + 1])):
        yield divmod(unit, count)


def _item(layout: PlanLayout, plan: np.ndarray, number: int) -> str:
    at = layout.row_item + number * ITEM_FIELDS
    row, first, end = (int(x) for x in plan[at : at + ITEM_FIELDS])
    return f"row {row}  segments [{first}, {end})"


def _tile(layout: PlanLayout, plan: np.ndarray, number: int) -> str:
    at = layout.tile + number * TILE_FIELDS
    start, count, first, end = (int(x) for x in plan[at : at + TILE_FIELDS])
    rows = plan[layout.tile_row + start : layout.tile_row + start + count]
    return f"rows {' '.join(map(str, rows))}  segments [{first}, {end})"
