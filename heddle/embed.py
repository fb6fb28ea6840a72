"""Embeddings: one vector for a text, pooled from the hidden states that the engine hands out in pieces."""

from __future__ import annotations

import numpy as np

from .runtime.errors import HeddleError, RequestError

POOLINGS = ("mean", "last")


class Pool:
    """Takes the hidden states of one sequence as they come (a `Receiver`); `vector` is their embedding afterwards.

    pooling: "mean" over all positions, or the "last" one, which alone has seen the whole text of a causal model.
    Sums are float64, position after position: the result is the same in any chunking, like the hidden states.
    """

    def __init__(self, pooling: str, normalize: bool) -> None:
        if pooling not in POOLINGS:
            raise RequestError(f"pooling is {pooling!r}; allowed are {', '.join(map(repr, POOLINGS))}")
        self._mean, self._normalize = pooling == "mean", normalize
        self._sum: np.ndarray | None = None
        self._count = 0

    def first(self, tokens: int) -> int:
        """The first position that is wanted of so many."""
        return 0 if self._mean else tokens - 1

    def __call__(self, position: int, states: np.ndarray) -> None:
        """Add float32[r, width]."""
        before = np.zeros((1, states.shape[1])) if self._sum is None else self._sum[None]
        self._sum = np.add.reduce(np.concatenate((before, states)), 0)  # along the rows, one after the other
        self._count += len(states)

    def vector(self) -> np.ndarray:
        """float32[width], of length 1 where it is to be normalized (a zero vector stays so). HeddleError if not finite."""
        assert self._sum is not None, "nothing came"
        mean = self._sum / self._count
        if not np.isfinite(mean).all():
            raise HeddleError(
                "hidden states of the model are not finite",
                "no embedding follows from them; weights or activations overflow their type",
                "check the weights of the model",
            )
        length = float(np.linalg.norm(mean))
        return (mean / length if self._normalize and length else mean).astype(np.float32)
