"""A runner that computes next to nothing, for tests of the engine.

Its logits are a hash of all tokens up to a row and their positions, read back from a cache by physical slot through the
page table. A wrong page, a wrong position, a missing or a repeated token therefore gives other logits. Like the real
runner it refuses what does not fit its bounds.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from heddle.runtime.plans import PAGE, PlanSequence

_MIX = np.uint64(0x9E3779B97F4A7C15)
_ODD = np.uint64(0xBF58476D1CE4E5B9)


@dataclasses.dataclass(frozen=True)
class NullInfo:
    vocab_size: int = 97
    context_length: int = 256
    max_tokens: int = 64
    max_seqs: int = 8
    num_pages: int = 64
    page_tokens: int = PAGE


def history_logits(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Logits float32[n, vocab] of every position of one sequence, computed without any cache."""
    return _logits(np.cumsum(_entries(tokens, np.arange(len(tokens)))), vocab_size)


def _entries(tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _MIX + (positions.astype(np.uint64) + np.uint64(7)) * _ODD
    return (mixed ^ (mixed >> np.uint64(29))) * _ODD


def _logits(states: np.ndarray, vocab_size: int) -> np.ndarray:
    mixed = (states[:, None] + np.arange(vocab_size, dtype=np.uint64) * _MIX) * _ODD
    return ((mixed ^ (mixed >> np.uint64(31))) * _MIX >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-22)


class NullRunner:
    """Records what it was asked (`calls`) and can be told to fail (`fail_next`)."""

    def __init__(self, **bounds: int) -> None:
        self.info = NullInfo(**bounds)
        self.cache = np.full(self.info.num_pages * PAGE, 0xDEAD, np.uint64)
        self.calls: list[list[tuple[int, int]]] = []
        self.fail_next: BaseException | None = None
        self.poison: set[int] = set()  # rows of logits of the next call that come out as NaN

    def forward(self, sequences: list[PlanSequence], tokens: np.ndarray, logit_rows: np.ndarray) -> np.ndarray:
        assert 1 <= len(sequences) <= self.info.max_seqs
        assert 1 <= len(tokens) <= self.info.max_tokens
        assert len(tokens) == sum(s.rows for s in sequences)
        assert tokens.dtype == logit_rows.dtype == np.int32
        self.calls.append([(s.start, s.rows) for s in sequences])
        states, first = [], 0
        for s in sequences:
            assert s.rows >= 1
            assert s.start + s.rows <= self.info.context_length
            positions = np.arange(s.start + s.rows)
            slots = s.pages[positions // PAGE].astype(np.int64) * PAGE + positions % PAGE
            self.cache[slots[s.start :]] = _entries(tokens[first : first + s.rows], positions[s.start :])
            states.append(np.cumsum(self.cache[slots])[s.start :])
            first += s.rows
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        logits = _logits(np.concatenate(states)[logit_rows], self.info.vocab_size)
        logits[sorted(self.poison)] = np.nan
        self.poison = set()
        return logits
