"""Filling a plan with NumPy: the definition of what the compiled builder (`schedules/cpu/plan.py`) computes, bit by bit."""

from __future__ import annotations

import numpy as np

from . import step
from .layout import DIRECT, ITEM_FIELDS, KV_SEGMENT, PAGE, ROWS, TILE_FIELDS, WORKERS, PlanLayout
from .step import CASCADE, COUNT, ROWS_ONLY, WINDOW
from .work import divide, piece_length, shared_prefixes

# Sequences with fewer new rows than this are served row by row, the others in tiles. The results are equal bit by bit.
TILE_FROM = 2

NO_TREE = 2**31 - 1  # where the tree of a row without one begins


def fill_plan(
    layout: PlanLayout, sequences: np.ndarray, options: np.ndarray, plan: np.ndarray, positions: np.ndarray
) -> None:
    """Fill `plan` and `positions` for the step that `sequences` and `options` describe (see `StepArrays`).

    The page table stands in `plan` before the call. What is given must fit the layout: nothing is checked here. Rows get the
    positions of their slots and the tree table of rows outside of trees; trees are put over that by `PlanBuilder`.
    """
    count, workers, window = (int(options[field]) for field in (COUNT, step.WORKERS, WINDOW))
    starts, rows, causal, pages = sequences[:count].astype(np.int64).T
    n = int(rows.sum())
    seq_of_row = np.repeat(np.arange(count), rows)
    first_row = np.cumsum(rows) - rows
    page_indptr = np.concatenate(([0], np.cumsum(pages)))
    index = np.arange(n) + (starts - first_row)[seq_of_row]  # where the row stands in its sequence
    sees_itself_last = causal.astype(bool)[seq_of_row]
    limits = np.where(sees_itself_last, index, (starts + rows - 1)[seq_of_row])

    plan[: layout.slot] = 0
    page = plan[layout.pages + page_indptr[seq_of_row] + index // PAGE].astype(np.int64)
    plan[layout.slot : layout.slot + n] = page * PAGE + index % PAGE
    plan[layout.row_seq : layout.row_seq + n] = seq_of_row
    plan[layout.limit : layout.limit + n] = limits
    plan[layout.page_indptr : layout.page_indptr + count + 1] = page_indptr
    positions[:n] = index
    if layout.tree_words:
        tree = plan[layout.tree : layout.tree + n * layout.tree_fields].reshape(n, layout.tree_fields)
        tree[:, 0], tree[:, 1:] = NO_TREE, -1

    # No row looks back from before its own position, which in a tree is that of the first new row or later.
    backward = np.where(sees_itself_last, index, starts[seq_of_row])
    first = np.maximum(backward - window + 1, 0) // KV_SEGMENT if window else 0 * index
    work = _Work(layout, workers, seq_of_row, limits, first)
    tiled = np.zeros(count, bool) if options[ROWS_ONLY] else rows >= TILE_FROM
    if options[CASCADE]:
        table = plan[layout.pages : layout.pages + page_indptr[-1]]
        for members, shared in shared_prefixes(np.split(table, page_indptr[1:-1]) if count else [], starts):
            work.share(np.flatnonzero(np.isin(seq_of_row, members)), shared)
    work.serve_rows(np.flatnonzero(~tiled[seq_of_row]))
    work.serve_tiles(rows, first_row, tiled)
    plan[ROWS : WORKERS + 1] = n, count, *work.write(plan), workers


class _Work:
    """The items of a step as they are found, and the states that they leave in memory."""

    def __init__(
        self, layout: PlanLayout, workers: int, seq_of_row: np.ndarray, limits: np.ndarray, first: np.ndarray
    ) -> None:
        self.layout, self.workers, self.seq_of_row, self.limits = layout, workers, seq_of_row, limits
        self.first = first  # of each row: the first segment that it still needs
        self.end = limits // KV_SEGMENT + 1
        self.state = np.full(len(limits), DIRECT)
        self.states = 0
        self.items = np.empty((0, ITEM_FIELDS), np.int64)
        self.tiles: list[tuple[int, int, int, int]] = []
        self.tile_rows: list[np.ndarray] = [np.empty(0, np.int64)]

    def keep_states(self, rows: np.ndarray) -> None:
        """Give every segment of these rows a state in memory."""
        counts = self.end[rows] - self.first[rows]
        self.state[rows] = self.states + np.cumsum(counts) - counts - self.first[rows]
        self.states += int(counts.sum())

    def share(self, rows: np.ndarray, shared: int) -> None:
        """Serve the first `shared` segments of these rows in tiles that cross sequences, if their states fit."""
        first = int(self.first[rows].min())
        if shared <= first or self.states + int((self.end[rows] - self.first[rows]).sum()) > self.layout.max_states:
            return
        self.keep_states(rows)
        for start in range(0, len(rows), self.layout.tile_rows):
            self._tile(rows[start : start + self.layout.tile_rows], first, shared)
        self.first[rows] = np.maximum(self.first[rows], shared)

    def serve_rows(self, rows: np.ndarray) -> None:
        """Items of rows that are served one by one, split where workers would have nothing to do."""
        counts = self.end[rows] - self.first[rows]
        cost = int((self.limits[rows] + 1 - self.first[rows] * KV_SEGMENT).sum())
        piece = piece_length(cost, self.layout.kv_heads, self.workers)
        if piece:
            split = rows[(counts > piece) & (self.state[rows] == DIRECT)]
            room = np.cumsum(self.end[split] - self.first[split]) + self.states <= self.layout.max_states
            self.keep_states(split[room])
        kept = self.state[rows] != DIRECT
        pieces = np.where(kept & bool(piece), -(-counts // max(piece, 1)), 1)
        row = np.repeat(rows, pieces)
        number = np.arange(len(row)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        length = np.repeat(np.where(kept & bool(piece), piece, counts), pieces)
        begin = self.first[row] + number * length
        self.items = np.stack([row, begin, np.minimum(begin + length, self.end[row])], axis=1)

    def serve_tiles(self, rows: np.ndarray, first_row: np.ndarray, tiled: np.ndarray) -> None:
        """Tiles of the sequences with several rows; a tile is all direct or all kept, as its sequence is."""
        for seq in np.flatnonzero(tiled):
            for start in range(0, int(rows[seq]), self.layout.tile_rows):
                stop = min(start + self.layout.tile_rows, int(rows[seq]))
                members = np.arange(first_row[seq] + start, first_row[seq] + stop)
                self._tile(members, int(self.first[members].min()), int(self.end[members].max()))

    def _tile(self, rows: np.ndarray, first: int, end: int) -> None:
        at = sum(map(len, self.tile_rows))
        self.tiles.append((at, len(rows), first, end))
        self.tile_rows.append(rows)

    def write(self, plan: np.ndarray) -> tuple[int, int, int]:
        """Fill the work's arrays; returns the numbers of row items, tiles and rows to merge."""
        layout = self.layout
        tiles = np.array(self.tiles, np.int64).reshape(-1, TILE_FIELDS)
        tile_rows = np.concatenate(self.tile_rows)
        merges = np.flatnonzero(self.state != DIRECT)
        plan[layout.state : layout.state + len(self.state)] = self.state
        plan[layout.row_item : layout.row_item + self.items.size] = self.items.ravel()
        plan[layout.tile_row : layout.tile_row + len(tile_rows)] = tile_rows
        plan[layout.tile : layout.tile + tiles.size] = tiles.ravel()
        plan[layout.merge : layout.merge + len(merges)] = merges
        row, begin, end = self.items.T
        row_cost = np.minimum(end * KV_SEGMENT, self.limits[row] + 1) - begin * KV_SEGMENT
        last = np.array([self.limits[tile_rows[at : at + count]].max() for at, count, _, _ in tiles], np.int64)
        tile_cost = tiles[:, 1] * (np.minimum(tiles[:, 3] * KV_SEGMENT, last + 1) - tiles[:, 2] * KV_SEGMENT)
        for at, costs in ((layout.row_work, row_cost), (layout.tile_work, tile_cost)):
            plan[at : at + self.workers + 1] = divide(costs, layout.kv_heads, self.workers)
        return len(self.items), len(tiles), len(merges)
