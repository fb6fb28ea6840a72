"""Filling a plan: which rows are whose, where their keys and values go, and how attention splits into tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from .layout import DIRECT, ITEM_FIELDS, KV_SEGMENT, MAX_WORKERS, PAGE, ROWS, TILE_FIELDS, WORKERS, PlanLayout
from .sequence import PlanSequence, ancestor_bits
from .work import divide, piece_length, shared_prefixes

# Sequences with fewer new rows than this are served row by row, the others in tiles. The results are equal bit by bit.
TILE_FROM = 2


@dataclasses.dataclass(frozen=True)
class Division:
    """How a step's attention is divided; no result depends on it.

    `workers` run at a time, each over a run of units. `window` is the most that any layer looks back (0: all), and
    `keep` whether the first segment counts all the same. `cascade` serves shared prefixes together.
    """

    workers: int = 1
    window: int = 0
    keep: bool = False
    cascade: bool = True


def build_plan(
    layout: PlanLayout,
    out: np.ndarray,
    sequences: Sequence[PlanSequence],
    *,
    rows_only: bool,
    division: Division | None = None,
) -> tuple[int, np.ndarray]:
    """Fill the int32 vector `out` for one step; return its used length and the positions int32[n] of the rows.

    Rows stand in the order of `sequences`, each sequence's in ascending position. `rows_only` makes every row a task of
    its own, as the functions with few rows expect. Raises ValueError if something exceeds `layout` or `out`, or if a
    sequence has fewer pages than its last row needs; `out` is then unchanged.
    """
    division = division or Division()
    rows = np.fromiter((s.rows for s in sequences), np.int64, len(sequences))
    starts = np.fromiter((s.start for s in sequences), np.int64, len(sequences))
    pages = np.fromiter((len(s.pages) for s in sequences), np.int64, len(sequences))
    n = int(rows.sum())
    used = layout.size(int(pages.sum()))
    _check(layout, out, rows, starts, pages, n, used, division)

    seq_of_row = np.repeat(np.arange(len(sequences)), rows)
    first_row = np.cumsum(rows) - rows
    index = np.arange(n) + (starts - first_row)[seq_of_row]  # where the row stands in its sequence
    causal = np.fromiter((s.causal and s.parents is None for s in sequences), bool, len(sequences))
    limits = np.where(causal[seq_of_row], index, (starts + rows - 1)[seq_of_row])
    positions, tree = _trees(layout, sequences, first_row, index)
    page_indptr = np.concatenate(([0], np.cumsum(pages)))

    work = _Work(layout, division, seq_of_row, limits)
    tiled = np.zeros(len(sequences), bool) if rows_only else rows >= TILE_FROM
    if division.cascade and not rows_only and len(sequences) > 1:
        for members, shared in shared_prefixes([s.pages for s in sequences], starts):
            work.share(np.flatnonzero(np.isin(seq_of_row, members)), shared)
    work.serve_rows(np.flatnonzero(~tiled[seq_of_row]))
    work.serve_tiles(rows, first_row, tiled)

    out[: layout.slot] = 0
    if sequences:
        np.concatenate([s.pages for s in sequences], out=out[layout.pages : used], casting="same_kind")
    table = out[layout.pages : used]
    page = table[page_indptr[seq_of_row] + index // PAGE].astype(np.int64)
    out[layout.slot : layout.slot + n] = page * PAGE + index % PAGE
    out[layout.row_seq : layout.row_seq + n] = seq_of_row
    out[layout.limit : layout.limit + n] = limits
    out[layout.tree : layout.tree + tree.size] = tree.ravel()
    out[layout.page_indptr : layout.page_indptr + len(page_indptr)] = page_indptr
    out[ROWS : WORKERS + 1] = n, len(sequences), *work.write(out), division.workers
    return used, positions.astype(np.int32)


class _Work:
    """The items of a step as they are found, and the states that they leave in memory."""

    def __init__(self, layout: PlanLayout, division: Division, seq_of_row: np.ndarray, limits: np.ndarray) -> None:
        self.layout, self.division, self.seq_of_row, self.limits = layout, division, seq_of_row, limits
        seen = np.maximum(limits - division.window + 1, 0) if division.window and not division.keep else 0 * limits
        self.first = seen // KV_SEGMENT  # of each row: the first segment that it still needs
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
        piece = piece_length(cost, self.layout.kv_heads, self.division.workers)
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

    def write(self, out: np.ndarray) -> tuple[int, int, int]:
        """Fill the work's arrays; returns the numbers of row items, tiles and rows to merge."""
        layout, division = self.layout, self.division
        tiles = np.array(self.tiles, np.int64).reshape(-1, TILE_FIELDS)
        tile_rows = np.concatenate(self.tile_rows)
        merges = np.flatnonzero(self.state != DIRECT)
        out[layout.state : layout.state + len(self.state)] = self.state
        out[layout.row_item : layout.row_item + self.items.size] = self.items.ravel()
        out[layout.tile_row : layout.tile_row + len(tile_rows)] = tile_rows
        out[layout.tile : layout.tile + tiles.size] = tiles.ravel()
        out[layout.merge : layout.merge + len(merges)] = merges
        row, begin, end = self.items.T
        row_cost = np.minimum(end * KV_SEGMENT, self.limits[row] + 1) - begin * KV_SEGMENT
        last = np.array([self.limits[tile_rows[at : at + count]].max() for at, count, _, _ in tiles], np.int64)
        tile_cost = tiles[:, 1] * (np.minimum(tiles[:, 3] * KV_SEGMENT, last + 1) - tiles[:, 2] * KV_SEGMENT)
        for at, costs in ((layout.row_work, row_cost), (layout.tile_work, tile_cost)):
            out[at : at + division.workers + 1] = divide(costs, layout.kv_heads, division.workers)
        return len(self.items), len(tiles), len(merges)


def _trees(
    layout: PlanLayout, sequences: Sequence[PlanSequence], first_row: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows and the tree table [n, tree_fields]; a row outside of trees sees all bits of a tree at its end."""
    tree = np.empty((len(index), layout.tree_fields), np.int32)
    positions = index
    if layout.tree_words:
        tree[:, 0] = 2**31 - 1
        tree[:, 1:] = -1
    for seq, first in zip(sequences, first_row, strict=True):
        if seq.parents is None:
            continue
        if not layout.tree_words:
            raise ValueError("a sequence has a tree, but the plan has no room for trees (tree_words=0)")
        if len(seq.parents) != seq.rows:
            raise ValueError(f"a tree of {len(seq.parents)} parents for {seq.rows} rows")
        positions = positions.copy() if positions is index else positions
        depth, bits = ancestor_bits(seq.parents, layout.tree_words)
        positions[first : first + seq.rows] = seq.start + depth
        tree[first : first + seq.rows, 0] = seq.start
        tree[first : first + seq.rows, 1:] = bits
    return positions, tree


def _check(
    layout: PlanLayout,
    out: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    pages: np.ndarray,
    n: int,
    used: int,
    division: Division,
) -> None:
    """Raise ValueError for the first thing that does not fit."""
    if out.dtype != np.int32 or out.ndim != 1:
        raise ValueError(f"a plan is an int32 vector, not {out.dtype}{list(out.shape)}")
    if not 1 <= division.workers <= MAX_WORKERS:
        raise ValueError(f"{division.workers} workers; allowed are 1 to {MAX_WORKERS}")
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
