"""Masks of the next tokens, computed by a thread of their own while the model runs."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from queue import SimpleQueue

import numpy as np

from ..sampler.reference import words
from .grammar import GrammarError, Matcher

Work = tuple[list[Matcher], np.ndarray]


class Masks:
    """Computes the masks of one step at a time: `start` before the model runs, `wait` when its logits are there."""

    def __init__(self, vocab: int) -> None:
        self._rows = np.empty((0, words(vocab)), np.int32)
        self._todo: SimpleQueue[Work | None] = SimpleQueue()
        self._done: SimpleQueue[list[Exception | None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._at_work = False

    def start(self, matchers: Sequence[Matcher]) -> None:
        """Begin to fill a mask for each matcher; until `wait` nobody else may use them."""
        if self._at_work:  # for a step that ended before it came to `wait`
            self._done.get()
        if len(self._rows) < len(matchers):
            self._rows = np.empty((len(matchers), self._rows.shape[1]), np.int32)
        if self._thread is None:
            self._thread = threading.Thread(
                target=_work, args=(self._todo, self._done), name="heddle-masks", daemon=True
            )
            self._thread.start()
            weakref.finalize(self, self._todo.put, None)
        self._at_work = True
        self._todo.put((list(matchers), self._rows))

    def wait(self) -> list[np.ndarray | Exception]:
        """The mask of each matcher, int32[words], or what its `fill` raised. They are overwritten after the next `start`."""
        found = self._done.get()
        self._at_work = False
        return [row if error is None else error for row, error in zip(self._rows, found, strict=False)]


def _work(todo: SimpleQueue[Work | None], done: SimpleQueue[list[Exception | None]]) -> None:
    """Fill masks until there is None to do."""
    while (work := todo.get()) is not None:
        errors: list[Exception | None] = []
        for matcher, row in zip(*work, strict=False):
            try:
                matcher.fill(row)
                errors.append(None)
            except BaseException as error:  # Rust's panics are no Exception; the thread must live on
                errors.append(error if isinstance(error, Exception) else GrammarError(f"a mask failed: {error}"))
        del work, matcher, row
        done.put(errors)
