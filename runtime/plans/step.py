"""A step as plain int32 arrays: what the plan builders, NumPy's and the compiled one, are given and fill."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from .layout import PlanLayout

# Fields of a sequence. `CAUSAL` is 0 where all rows see all of it, and for trees, whose bits say what they see.
START, NEW_ROWS, CAUSAL, PAGES = range(4)
SEQUENCE_FIELDS = 4

# Options of a step. `WINDOW` is 0 where some row needs the first segment; `ROWS_ONLY` and `CASCADE` are 0 or 1.
COUNT, ROWS_ONLY, WORKERS, WINDOW, CASCADE = range(5)
OPTIONS = 5


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

    def options(self, count: int, rows_only: bool) -> tuple[int, ...]:
        """The options of a step of `count` sequences."""
        window = 0 if self.keep else self.window
        return count, int(rows_only), self.workers, window, int(self.cascade and not rows_only)


@dataclasses.dataclass(frozen=True)
class StepArrays:
    """The arguments of a plan builder, int32 and in this order.

    `sequences` [max_seqs, SEQUENCE_FIELDS] and `options` [OPTIONS] describe the step; `plan`, whose page table is in place
    already, and `positions` [max_tokens] are filled as far as the step needs.
    """

    sequences: np.ndarray
    options: np.ndarray
    plan: np.ndarray
    positions: np.ndarray

    @classmethod
    def around(
        cls, layout: PlanLayout, plan: np.ndarray, empty: Callable[[tuple[int, ...], str], np.ndarray] = np.zeros
    ) -> StepArrays:
        """Arrays for a plan vector, new ones by `empty` (compiled code wants aligned memory: `runtime.tvm.empty`)."""
        shapes = (layout.max_seqs, SEQUENCE_FIELDS), (OPTIONS,), (layout.max_tokens,)
        sequences, options, positions = (empty(shape, "int32") for shape in shapes)
        return cls(sequences, options, plan, positions)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.sequences, self.options, self.plan, self.positions))
