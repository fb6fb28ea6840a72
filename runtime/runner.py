"""What the engine needs of a model."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .kv import PageStore
from .plans import PlanSequence
from .sampler import Sampler


class RunnerInfo(Protocol):
    """Sizes of the model, and the bounds of a step. `window`: how far back any row sees, 0 where it is to the start. `few_rows`: up
    to how many rows a step is served by code that is made for few. `encoder`: every row sees its whole sequence, which has to be
    served in one step, and there are hidden states but no logits."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def max_seqs(self) -> int: ...
    @property
    def num_pages(self) -> int: ...
    @property
    def page_tokens(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def few_rows(self) -> int: ...
    @property
    def encoder(self) -> bool: ...


class Runner(PageStore, Protocol):
    """Computes one step. It owns the memory of the cache; the engine only hands out page numbers."""

    @property
    def info(self) -> RunnerInfo: ...

    @property
    def sampler(self) -> Sampler: ...

    def forward(self, sequences: list[PlanSequence], tokens: np.ndarray, logit_rows: np.ndarray) -> np.ndarray:
        """Logits float32[r, vocab] of the rows `logit_rows` (int32[r], ascending) of the batch `tokens` (int32[n]).

        Rows stand in the order of `sequences`. Keys and values of all rows are stored as a side effect. The result may
        be overwritten by the next call.
        """
        ...

    def hidden(self, rows: np.ndarray) -> np.ndarray:
        """The final hidden states float32[r, width] (after the last norm) of rows int32[r] of the last `forward`.

        They may be overwritten by the next `forward`.
        """
        ...
