"""Building the plan of a step: what does not fit is refused, a builder fills the vector, and trees of drafts are put over it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from .fill import fill_plan
from .layout import MAX_WORKERS, PAGE, PlanLayout
from .sequence import PlanSequence, ancestor_bits
from .step import NEW_ROWS, PAGES, SEQUENCE_FIELDS, START, Division, StepArrays


class PlanBuilder:
    """Builds plans into the same arrays again and again.

    `fill` fills `arrays.plan` and `arrays.positions` from the other two as `fill_plan` does: the artifact's function `plan`
    over these arrays, or NumPy where none is given.
    """

    def __init__(self, layout: PlanLayout, arrays: StepArrays, fill: Callable[[], object] | None = None) -> None:
        self.layout, self.arrays = layout, arrays
        self.fill = fill or functools.partial(fill_plan, layout, *arrays)

    def build(self, sequences: Sequence[PlanSequence], *, rows_only: bool, division: Division) -> tuple[int, int]:
        """Plan one step; return the used length of the plan and the number of rows n.

        `rows_only` and the errors are those of `build_plan`.
        """
        layout, arrays = self.layout, self.arrays
        fields = [(s.start, s.rows, s.causal and s.parents is None, len(s.pages)) for s in sequences]
        table = np.array(fields, np.int64).reshape(-1, SEQUENCE_FIELDS)
        trees = [(i, s.parents) for i, s in enumerate(sequences) if s.parents is not None]
        n, used = _check(layout, arrays.plan, table, division)
        bits = [_tree(layout, parents, sequences[i].rows) for i, parents in trees]
        arrays.sequences[: len(table)] = table
        arrays.options[:] = division.options(len(table), rows_only)
        if len(table):
            out = arrays.plan[layout.pages : used]
            np.concatenate([s.pages for s in sequences], out=out, casting="same_kind")
        self.fill()
        for (i, _), (depth, seen) in zip(trees, bits, strict=True):
            first, rows = int(table[:i, NEW_ROWS].sum()), len(depth)
            arrays.positions[first : first + rows] = sequences[i].start + depth
            at = layout.tree + first * layout.tree_fields
            tree = arrays.plan[at : at + rows * layout.tree_fields].reshape(rows, layout.tree_fields)
            tree[:, 0], tree[:, 1:] = sequences[i].start, seen
        return used, n


def build_plan(
    layout: PlanLayout,
    out: np.ndarray,
    sequences: Sequence[PlanSequence],
    *,
    rows_only: bool,
    division: Division | None = None,
) -> tuple[int, np.ndarray]:
    """Fill the int32 vector `out` for one step with NumPy; return its used length and the positions int32[n] of the rows.

    Rows stand in the order of `sequences`, each sequence's in ascending position. `rows_only` makes every row a task of
    its own, as the functions with few rows expect. Raises ValueError if something exceeds `layout` or `out`, or if a
    sequence has fewer pages than its last row needs; `out` is then unchanged.
    """
    arrays = StepArrays.around(layout, out)
    used, n = PlanBuilder(layout, arrays).build(sequences, rows_only=rows_only, division=division or Division())
    return used, arrays.positions[:n]


def _tree(layout: PlanLayout, parents: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Depths and bits of a sequence's tree; ValueError where it does not fit."""
    if not layout.tree_words:
        raise ValueError("a sequence has a tree, but the plan has no room for trees (tree_words=0)")
    if len(parents) != rows:
        raise ValueError(f"a tree of {len(parents)} parents for {rows} rows")
    return ancestor_bits(parents, layout.tree_words)


def _check(layout: PlanLayout, out: np.ndarray, table: np.ndarray, division: Division) -> tuple[int, int]:
    """Rows and used length of the step, or ValueError for the first thing that does not fit."""
    starts, rows, pages = table[:, START], table[:, NEW_ROWS], table[:, PAGES]
    n, used = int(rows.sum()), layout.size(int(pages.sum()))
    if out.dtype != np.int32 or out.ndim != 1:
        raise ValueError(f"a plan is an int32 vector, not {out.dtype}{list(out.shape)}")
    if not 1 <= division.workers <= MAX_WORKERS:
        raise ValueError(f"{division.workers} workers; allowed are 1 to {MAX_WORKERS}")
    if division.window < 0:
        raise ValueError(f"a window of {division.window} tokens; it must be 0 (no window) or more")
    if len(table) > layout.max_seqs:
        raise ValueError(f"{len(table)} sequences in one step, but the plan has room for max_seqs={layout.max_seqs}")
    for i in np.flatnonzero((rows < 1) | (starts < 0)):
        raise ValueError(f"sequence {i} has {rows[i]} new rows from position {starts[i]}: at least 1 from 0 is needed")
    if n > layout.max_tokens:
        raise ValueError(
            f"{n} new rows in one step, but the plan has room for max_tokens={layout.max_tokens}; split it"
        )
    for i in np.flatnonzero(pages * PAGE < starts + rows):
        raise ValueError(
            f"sequence {i} has {pages[i]} pages, but its last row at position {starts[i] + rows[i] - 1} needs"
            f" {-(-(starts[i] + rows[i]) // PAGE)}"
        )
    if used > len(out):
        raise ValueError(
            f"the plan needs {used} elements ({used - layout.pages} page table entries), but the vector holds {len(out)}"
        )
    return n, used
