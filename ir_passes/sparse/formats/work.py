"""Rows dealt to work items or groups: balanced, and grouped."""

from __future__ import annotations

import numpy as np

from ..axes import DenseFixed, DenseVariable, SparseFixed, SparseVariable, Value
from ..errors import FormatError
from ..format import Format
from .check import check_range
from .operand import CSR, Operand


def balanced(m: Value, n: Value, nnz: Value, items: Value, name: str = "balanced") -> Format:
    """csr whose rows are dealt to `items` work items: item starts [items + 1], then the arrays of csr; values [nnz].

    item      0           1                   item starts    0 2 4
    row       0     1     2       3           2 items of about equal cost, one thread takes one
    indices   0 2         1 2 4   3
    values    a b         c d e   f
    """
    levels = (
        DenseFixed("W", items),
        DenseVariable("I", m, m, items, f"{name}_"),
        SparseVariable("J", n, nnz, m, f"{name}_"),
    )
    return Format(name, levels, lambda w, i, j: (i.pos, j.coord))


def item_rows(indptr: np.ndarray, items: int) -> np.ndarray:
    """int32[items + 1]: bounds of runs of rows with about as many entries each; a row counts one more, for its output."""
    m = len(indptr) - 1
    ends = indptr.astype(np.int64) + np.arange(m + 1)
    want = np.linspace(0, ends[-1], items + 1)
    above = np.searchsorted(ends, want)
    below = np.maximum(above - 1, 0)
    bounds = np.where(want - ends[below] < ends[above] - want, below, above)
    bounds[0], bounds[-1] = 0, m
    return bounds.astype(np.int32)


def to_balanced(a: CSR, items: int, name: str = "balanced") -> Operand:
    """A matrix as balanced csr."""
    fmt = balanced(*a.shape, a.nnz, items, name)
    return Operand(fmt, (item_rows(a.indptr, items), a.indptr, a.indices), a.data, a.shape)


def grouped(
    groups: Value, tokens: Value, used: Value, entries: Value, name: str = "grouped", disjoint: bool = True
) -> Format:
    """Tokens by group (adapter, expert), groups ragged: group ids [used], indptr [used + 1], token ids [entries]; values [entries].

        group id  0     2       3
        indptr    0     2       5    6
        tokens    0 2   1 2 4   3            the matrix is groups x tokens; values are gates, if there are any
        values    a b   c d e   f

    Coordinates are (group, token). `disjoint`: every token is in at most one group (LoRA); otherwise outputs add up (mixture of
    experts).
    """
    levels = (SparseFixed("E", groups, used, 1, f"{name}_"), SparseVariable("T", tokens, entries, used, f"{name}_"))
    return Format(
        name, levels, lambda e, t: (e.coord, t.coord), disjoint=disjoint, partition=("E",) if disjoint else ()
    )


def to_grouped(a: CSR, name: str = "grouped") -> Operand:
    """A matrix [groups, tokens] of gates as grouped."""
    ids = np.flatnonzero(a.counts).astype(np.int32)
    indptr, tokens, gates = a.take_rows(ids)
    disjoint = bool(np.bincount(tokens, minlength=1).max() <= 1)
    return Operand(grouped(*a.shape, len(ids), len(tokens), name, disjoint), (ids, indptr, tokens), gates, a.shape)


def group_arrays(group_of: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays of `grouped` for int32[tokens] or int32[tokens, k] groups of every token; -1 means none."""
    flat = group_of[:, None] if group_of.ndim == 1 else group_of
    token, slot = np.nonzero(flat >= 0)
    chosen = flat[token, slot]
    check_range("groups", chosen, groups)
    order = np.argsort(chosen, kind="stable")
    tokens = token[order].astype(np.int32)
    ids, counts = np.unique(chosen, return_counts=True)
    same = (np.diff(chosen[order]) == 0) & (np.diff(tokens) == 0)
    if same.any():
        at = int(np.flatnonzero(same)[0])
        raise FormatError(
            f"token {tokens[at]} is in group {chosen[order][at]} twice",
            "it would count twice",
            "name each group once a token",
        )
    return ids.astype(np.int32), np.concatenate(([0], np.cumsum(counts))).astype(np.int32), tokens
