"""A null device: a runner that computes next to nothing, for tests of the engine and for replaying its traces.

Its logits are a hash of all tokens up to a row and their positions, read back from a cache by physical slot through the
page table. A wrong page, a wrong position, a missing or a repeated token therefore gives other logits. Like the real
runner it refuses what does not fit its bounds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from .plans import PAGE, PlanSequence
from .sampler import Sampler

HIDDEN = 4
"""Width of the hidden states."""

_MIX = np.uint64(0x9E3779B97F4A7C15)
_ODD = np.uint64(0xBF58476D1CE4E5B9)


@dataclasses.dataclass(frozen=True)
class NullInfo:
    """Sizes of a model that is none, and the bounds of a step. `window`: how far back a row sees; 0 is to the start.

    As an `encoder` it takes whole sequences only, and a row's states are those of the last token.
    """

    vocab_size: int = 97
    context_length: int = 256
    max_tokens: int = 64
    max_seqs: int = 8
    num_pages: int = 64
    page_tokens: int = PAGE
    window: int = 0
    few_rows: int = 0
    encoder: bool = False


def history_logits(tokens: np.ndarray, vocab_size: int, window: int = 0) -> np.ndarray:
    """Logits float32[n, vocab] of every position of one sequence, computed without any cache."""
    return _logits(history_states(tokens, window), vocab_size)


def history_hidden(tokens: np.ndarray, window: int = 0) -> np.ndarray:
    """Hidden states float32[n, HIDDEN] of every position of one sequence, computed without any cache."""
    return _logits(history_states(tokens, window), HIDDEN)


def history_states(tokens: np.ndarray, window: int = 0) -> np.ndarray:
    """What each position has seen, uint64[n]."""
    return _seen(_entries(tokens, np.arange(len(tokens))), 0, window)


def _seen(entries: np.ndarray, start: int, window: int) -> np.ndarray:
    """Sums of `entries` up to each position from `start` on, over the last `window` of them (0: all)."""
    sums = np.cumsum(entries)
    if window:
        sums[window:] -= sums[:-window].copy()
    return sums[start:]


def _entries(tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _MIX + (positions.astype(np.uint64) + np.uint64(7)) * _ODD
    return (mixed ^ (mixed >> np.uint64(29))) * _ODD


def _logits(states: np.ndarray, vocab_size: int) -> np.ndarray:
    mixed = (states[:, None] + np.arange(vocab_size, dtype=np.uint64) * _MIX) * _ODD
    return ((mixed ^ (mixed >> np.uint64(31))) * _MIX >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-22)


class NullRunner:
    """Records what it was asked (`calls`: start and rows of every sequence) and can be told to fail (`fail_next`)."""

    def __init__(self, **bounds: Any) -> None:
        self.info = NullInfo(**bounds)
        self.cache = np.full((self.info.num_pages, self.info.page_tokens), 0xDEAD, np.uint64)
        self.sampler = Sampler()
        self.calls: list[list[tuple[int, int]]] = []
        self.fail_next: BaseException | None = None
        self.poison: set[int] = set()  # rows of logits of the next call that come out as NaN
        self._states = np.empty(0, np.uint64)

    def forward(self, sequences: list[PlanSequence], tokens: np.ndarray, logit_rows: np.ndarray) -> np.ndarray:
        """Logits float32[r, vocab] of the rows `logit_rows` int32[r]; ValueError for a step that a model would not take."""
        info, size = self.info, self.info.page_tokens
        if not 1 <= len(sequences) <= info.max_seqs or not 1 <= len(tokens) <= info.max_tokens:
            raise ValueError(
                f"{len(sequences)} sequences, {len(tokens)} tokens: at most {info.max_seqs}, {info.max_tokens}"
            )
        if len(tokens) != sum(s.rows for s in sequences) or not tokens.dtype == logit_rows.dtype == np.int32:
            raise ValueError("the tokens are not int32, or not as many as the sequences have new rows")
        if any(s.causal == info.encoder or (info.encoder and s.start) for s in sequences) or (
            info.encoder and len(logit_rows)
        ):
            raise ValueError("a decoder's sequences are causal; an encoder's are not, are whole, and have no logits")
        self.calls.append([(s.start, s.rows) for s in sequences])
        states, first = [], 0
        for s in sequences:
            if s.rows < 1 or s.start + s.rows > info.context_length:
                raise ValueError(f"{s.rows} rows from position {s.start} on; the context holds {info.context_length}")
            begin = max(0, s.start + 1 - info.window) if info.window else 0  # nothing before it is seen
            positions = np.arange(begin, s.start + s.rows)
            slots = s.pages[positions // size], positions % size
            if (slots[0] < 0).any():
                raise ValueError("a page is read that was given back")
            new = positions >= s.start
            self.cache[slots[0][new], slots[1][new]] = _entries(tokens[first : first + s.rows], positions[new])
            seen = _seen(self.cache[slots], s.start - begin, info.window)
            states.append(np.full_like(seen, seen[-1]) if info.encoder else seen)
            first += s.rows
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        self._states = np.concatenate(states)
        logits = _logits(self._states[logit_rows], info.vocab_size)
        logits[sorted(self.poison)] = np.nan
        self.poison = set()
        return logits

    def hidden(self, rows: np.ndarray) -> np.ndarray:
        """Hidden states float32[r, HIDDEN] of the rows int32[r] of the last step."""
        return _logits(self._states[rows], HIDDEN)

    def copy_pages(self, source: np.ndarray, destination: np.ndarray) -> None:
        """Copy the records `source` int32[k] to `destination` int32[k]."""
        self.cache[destination] = self.cache[source]

    def save_pages(self, pages: np.ndarray) -> np.ndarray:
        """Copies of the records, uint8[k, record_bytes]."""
        return self.cache[pages].view(np.uint8).reshape(len(pages), 8 * self.info.page_tokens)

    def load_pages(self, pages: np.ndarray, saved: np.ndarray) -> None:
        """Write what `save_pages` gave to the records `pages` int32[k]."""
        self.cache[pages] = saved.view(np.uint64)
