"""One sequence in a step, and what its rows see of it."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class PlanSequence:
    """One sequence in a step: its physical `pages` (int32), the position `start` of its first new row, and its new `rows`.

    A row sees the sequence up to itself; with `causal=False` all rows see all of it (encoders). `parents` int32[rows] makes
    the new rows a tree of drafts (Miao et al., SpecInfer): row i sees what was before `start` and its ancestors, parents[i] < i
    is the row before it or -1; its position is start + depth while its slot is that of start + i.
    """

    pages: np.ndarray
    start: int
    rows: int
    causal: bool = True
    parents: np.ndarray | None = None


def ancestor_bits(parents: np.ndarray, words: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth int64[n] of each node, and int32[n, words] whose bit j says that node j is an ancestor or the node itself."""
    n = len(parents)
    if n > 32 * words:
        raise ValueError(f"a tree of {n} rows, but the plan has room for {32 * words} (tree_words={words})")
    depth = np.zeros(n, np.int64)
    bits = np.zeros((n, words), np.uint32)
    for i, parent in enumerate(parents):
        if not -1 <= parent < i:
            raise ValueError(f"parents[{i}] is {parent}: a parent is an earlier row of the tree, or -1")
        if parent >= 0:
            depth[i] = depth[parent] + 1
            bits[i] = bits[parent]
        bits[i, i // 32] |= np.uint32(1 << (i % 32))
    return depth, bits.view(np.int32)
