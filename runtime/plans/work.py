"""Dividing attention among tasks and workers: the part of a plan that no result depends on.

Items are rows or tiles with a range of segments. Segments have states of their own and merge in ascending order wherever they
were computed, so the division is free: shared prefixes are served once for all their rows (FlashInfer's cascade), long rows are
split where a worker would have nothing to do (flash-decoding), and workers get contiguous runs of about equal cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .layout import KV_SEGMENT, PAGE

SEGMENT_PAGES = KV_SEGMENT // PAGE


def shared_prefixes(tables: Sequence[np.ndarray], starts: np.ndarray) -> list[tuple[list[int], int]]:
    """Groups of sequences whose page tables begin alike: (sequences, number of whole segments that all of them share).

    A group's first sequence is compared with the later ones; only segments that end before every sequence's new rows count.
    """
    whole = starts // KV_SEGMENT
    groups, taken = [], np.zeros(len(tables), bool)
    for i in map(int, np.flatnonzero(whole)):
        if taken[i]:
            continue
        members, shared = [i], int(whole[i])
        for j in range(i + 1, len(tables)):
            if not taken[j] and whole[j]:
                same = _shared_segments(tables[i], tables[j], min(shared, int(whole[j])))
                if same:
                    members.append(j)
                    shared = same
                    taken[j] = True
        if len(members) > 1:
            groups.append((members, shared))
    return groups


def _shared_segments(a: np.ndarray, b: np.ndarray, most: int) -> int:
    for segment in range(most):
        pages = slice(segment * SEGMENT_PAGES, (segment + 1) * SEGMENT_PAGES)
        if not np.array_equal(a[pages], b[pages]):
            return segment
    return most


def piece_length(cost: int, kv_heads: int, workers: int) -> int:
    """Segments of an item at most, where all items cost `cost` tokens a kv head; 0 where nothing need be split."""
    if workers == 1 or kv_heads % workers == 0:
        return 0  # every worker gets the same heads of every item
    return max(1, cost * kv_heads // (2 * workers * KV_SEGMENT))


def divide(costs: np.ndarray, heads: int, workers: int) -> np.ndarray:
    """Bounds int64[workers + 1] of runs of units of about equal cost; unit u is item u % len(costs) of head u // len(costs)."""
    n = len(costs)
    ends = np.cumsum(costs)
    total = int(ends[-1]) if n else 0
    wanted = np.arange(workers + 1) * (total * heads) // workers
    if not total:
        return np.arange(workers + 1) * (n * heads) // workers
    head, rest = np.divmod(wanted, total)
    bounds = head * n + np.searchsorted(ends, rest, side="right")
    bounds[-1] = n * heads
    return bounds
