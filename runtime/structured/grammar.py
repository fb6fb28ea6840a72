"""What the engine needs of a grammar, whoever compiles it, and the cache of compiled ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Protocol

import numpy as np

from ..errors import HeddleError
from .params import Structured

CACHED = 128
"""Compiled grammars that are kept."""


class GrammarError(HeddleError):
    """A grammar cannot go on: it allows no token, or the work on it became too much. The request ends, the engine does not."""


class Matcher(Protocol):
    """Where one text stands in its grammar. One thread at a time; every method may raise GrammarError."""

    @property
    def finished(self) -> bool:
        """Whether the text is complete, and nothing can follow."""
        ...

    def fill(self, row: np.ndarray) -> None:
        """Write which tokens may come next to `row` int32[words]: bit t % 32 of element t // 32 for token t."""
        ...

    def accept(self, token: int) -> None:
        """The text goes on with `token`, which `fill` allows."""
        ...

    def forced(self) -> list[int]:
        """The next tokens, where the grammar leaves no choice; empty where it leaves one."""
        ...

    def copy(self) -> Matcher:
        """Another matcher at the same place."""
        ...


class Grammar(Protocol):
    """A compiled grammar. Any thread may make matchers."""

    def matcher(self, end_ids: Collection[int]) -> Matcher:
        """A matcher at the start. It allows the tokens `end_ids` where the text may end, and nowhere else."""
        ...


class Grammars:
    """Compiles grammars and keeps the last ones. Any thread may use it."""

    def __init__(self, compile_spec: Callable[[Structured], Grammar], kept: int = CACHED) -> None:
        """`compile_spec` raises RequestError where a grammar makes no sense."""
        self._compile, self._kept = compile_spec, kept
        self._lock = threading.Lock()
        self._found: OrderedDict[Structured, Grammar] = OrderedDict()

    def get(self, spec: Structured) -> Grammar:
        """The compiled grammar of `spec`. Threads that want the same one at the same time may each compile it."""
        with self._lock:
            if spec in self._found:
                self._found.move_to_end(spec)
                return self._found[spec]
        made = self._compile(spec)
        with self._lock:
            self._found[spec] = made
            if len(self._found) > self._kept:
                self._found.popitem(last=False)
        return made
