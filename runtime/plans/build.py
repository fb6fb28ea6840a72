"""Filling a plan: which rows are whose, where their keys and values go, and how attention splits into tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from .layout import PAGE, ROWS, SEQUENCES, TILE_FIELDS, TILE_ROWS, PlanLayout

# Sequences with fewer new rows than this are served row by row, the others in tiles. The results are equal bit by bit.
TILE_FROM = 4


@dataclasses.dataclass(frozen=True)
class PlanSequence:
    """One sequence in a step: its physical `pages` (int32), the position `start` of its first new row, and its new `rows`."""

    pages: np.ndarray
    start: int
    rows: int


def build_plan(
    layout: PlanLayout, out: np.ndarray, sequences: Sequence[PlanSequence], *, rows_only: bool
) -> tuple[int, np.ndarray]:
    """Fill the int32 vector `out` for one step; return its used length and the positions int32[n] of the rows.

    Rows stand in the order of `sequences`, each sequence's in ascending position. `rows_only` makes every row a task of
    its own, as the functions with few rows expect. Raises ValueError if something exceeds `layout` or `out`, or if a
    sequence has fewer pages than its last row needs; `out` is then unchanged.
    """
    rows = np.fromiter((s.rows for s in sequences), np.int64, len(sequences))
    starts = np.fromiter((s.start for s in sequences), np.int64, len(sequences))
    pages = np.fromiter((len(s.pages) for s in sequences), np.int64, len(sequences))
    n = int(rows.sum())
    used = layout.size(int(pages.sum()))
    _check(layout, out, rows, starts, pages, n, used)

    seq_of_row = np.repeat(np.arange(len(sequences)), rows)
    first_row = np.cumsum(rows) - rows
    positions = np.arange(n) + (starts - first_row)[seq_of_row]
    page_indptr = np.concatenate(([0], np.cumsum(pages)))

    tiled = np.zeros(len(sequences), bool) if rows_only else rows >= TILE_FROM
    row_tasks = np.flatnonzero(~tiled[seq_of_row])
    tiles_of_seq = np.where(tiled, -(-rows // TILE_ROWS), 0)
    seq_of_tile = np.repeat(np.arange(len(sequences)), tiles_of_seq)
    tile_start = TILE_ROWS * (np.arange(len(seq_of_tile)) - (np.cumsum(tiles_of_seq) - tiles_of_seq)[seq_of_tile])
    tiles = np.empty((len(seq_of_tile), TILE_FIELDS), np.int32)
    tiles[:, 0] = first_row[seq_of_tile] + tile_start
    tiles[:, 1] = np.minimum(rows[seq_of_tile] - tile_start, TILE_ROWS)
    tiles[:, 2] = starts[seq_of_tile] + tile_start
    tiles[:, 3] = seq_of_tile

    out[: layout.slot] = 0
    out[ROWS : SEQUENCES + 1] = n, len(row_tasks), len(tiles), len(sequences)
    if sequences:
        np.concatenate([s.pages for s in sequences], out=out[layout.pages : used], casting="same_kind")
    table = out[layout.pages : used]
    page = table[page_indptr[seq_of_row] + positions // PAGE].astype(np.int64)
    out[layout.slot : layout.slot + n] = page * PAGE + positions % PAGE
    out[layout.row_seq : layout.row_seq + n] = seq_of_row
    out[layout.row_task : layout.row_task + len(row_tasks)] = row_tasks
    out[layout.tiles : layout.tiles + tiles.size] = tiles.ravel()
    out[layout.page_indptr : layout.page_indptr + len(page_indptr)] = page_indptr
    return used, positions.astype(np.int32)


def _check(
    layout: PlanLayout, out: np.ndarray, rows: np.ndarray, starts: np.ndarray, pages: np.ndarray, n: int, used: int
) -> None:
    """Raise ValueError for the first thing that does not fit."""
    if out.dtype != np.int32 or out.ndim != 1:
        raise ValueError(f"a plan is an int32 vector, not {out.dtype}{list(out.shape)}")
    if len(rows) > layout.max_seqs:
        raise ValueError(f"{len(rows)} sequences in one step, but the plan has room for max_seqs={layout.max_seqs}")
    for i in np.flatnonzero((rows < 1) | (starts < 0)):
        raise ValueError(f"sequence {i} has {rows[i]} new rows from position {starts[i]}: at least 1 from 0 is needed")
    if n > layout.max_tokens:
        raise ValueError(
            f"{n} new rows in one step, but the plan has room for max_tokens={layout.max_tokens}; split it"
        )
    needed = -(-(starts + rows) // PAGE)
    for i in np.flatnonzero(pages < needed):
        raise ValueError(
            f"sequence {i} has {pages[i]} pages, but its last row at position {starts[i] + rows[i] - 1} needs {needed[i]}"
        )
    if used > len(out):
        raise ValueError(
            f"the plan needs {used} elements ({used - layout.pages} page table entries), but the vector holds {len(out)}"
        )
