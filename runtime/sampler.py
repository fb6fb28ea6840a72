"""Choosing the next token of every sequence in a batch.

A row's choice depends on its logits, its parameters, its seed and its position, never on the other rows: work is done
row by row or along the last axis, and the random number is a function of (seed, absolute position) alone. The same seed
therefore gives the same text in any batch, in any chunking and after a preemption.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from .sampling import SamplingParams

NO_TOKEN = -1
"""Stands for a choice that cannot be made: the row has a NaN, +inf, or nothing but -inf."""

_MASK = (1 << 64) - 1
_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Draw:
    """What one row wants: its parameters, its seed (0 to 2**64 - 1) and the position that the new token will have."""

    params: SamplingParams
    seed: int
    position: int


def sample(logits: np.ndarray, draws: Sequence[Draw]) -> np.ndarray:
    """The chosen token int32[r] of each row of `logits` float32[r, vocab]; NO_TOKEN where a row allows no choice.

    Equal logits go to the lower token id. Raises ValueError if there are not as many draws as rows.
    """
    if logits.ndim != 2 or len(draws) != len(logits):
        raise ValueError(f"logits {list(logits.shape)} need one draw per row, got {len(draws)}")
    tokens: np.ndarray = logits.argmax(axis=-1).astype(np.int32)
    # argmax stops at a NaN, so the maximum alone tells whether a row is usable.
    usable = np.isfinite(logits[np.arange(len(logits)), tokens])
    for i, draw in enumerate(draws):
        if not usable[i]:
            tokens[i] = NO_TOKEN
        elif not draw.params.greedy:
            tokens[i] = _sample_row(logits[i], int(tokens[i]), draw)
    return tokens


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits: two rounds of splitmix64 (Steele et al., 2014) over seed and position."""
    return (_splitmix(_splitmix(seed) ^ position) >> 11) * 2.0**-53


def _splitmix(state: int) -> int:
    z = (state + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _sample_row(row: np.ndarray, best: int, draw: Draw) -> int:
    """Inverse CDF over the candidates in ascending order of token id.

    The sum is float64 and its last term is the total, so a point under the total always falls on a token of probability
    over 0.
    """
    params = draw.params
    ids = _top_k(row, params.top_k) if 0 < params.top_k < len(row) else None
    kept = row if ids is None else row[ids]
    # Any temperature under the smallest float32 leaves only the maxima, as the smallest does.
    scale = np.float32(max(params.temperature, _TINY))
    with np.errstate(over="ignore"):
        weights = np.exp((kept - row[best]) / scale)
    if params.top_p < 1:
        inside = _top_p(weights, params.top_p)
        ids = inside if ids is None else ids[inside]
        weights = weights[inside]
    cumulated = np.cumsum(weights, dtype=np.float64)
    point = uniform(draw.seed, draw.position) * cumulated[-1]
    chosen = int(np.searchsorted(cumulated, point, side="right"))
    return chosen if ids is None else int(ids[chosen])


def _top_k(row: np.ndarray, k: int) -> np.ndarray:
    """Ascending ids of the k largest logits; of equals, the lower ids."""
    return _largest(row, k, np.partition(row, len(row) - k)[len(row) - k])


def _top_p(weights: np.ndarray, p: float) -> np.ndarray:
    """Ascending indices of the fewest largest weights that reach `p` of their sum; of equals, the lower indices.

    Only part of the vocabulary is sorted: all weights under (1 - p) * sum / n together are less than (1 - p) * sum, so
    the others reach p and hold the answer. Values are sorted, not indices: that is many times faster.
    """
    total = float(np.sum(weights, dtype=np.float64))
    ordered = np.sort(weights[weights >= (1 - p) * total / len(weights)])[::-1]
    reached = int(np.searchsorted(np.cumsum(ordered, dtype=np.float64), p * total, side="left"))
    count = min(reached + 1, len(ordered))  # rounding may keep the whole sum just under p
    return _largest(weights, count, ordered[count - 1])


def _largest(values: np.ndarray, count: int, threshold: np.floating) -> np.ndarray:
    """Ascending indices of the `count` largest values, the least of which is `threshold`; of equals, the lower."""
    indices = np.flatnonzero(values >= threshold)
    surplus = len(indices) - count
    if surplus:
        equal = np.flatnonzero(values[indices] == threshold)
        indices = np.delete(indices, equal[len(equal) - surplus :])
    return indices
