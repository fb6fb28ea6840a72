"""What one row of logits asks of the sampler, what it gets back, and where its random numbers come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from ..sampling import SamplingParams

NO_TOKEN = -1
"""Stands for a choice that cannot be made: the row has a NaN, +inf, or nothing but -inf."""

_MASK = (1 << 64) - 1
_NOTHING = np.empty(0, np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """What one row wants.

    seed, position: 0 to 2**64 - 1, and the position that the new token will have: the random number's coordinates.
    tokens: the sequence so far, int32, `num_prompt` tokens of the prompt and then what was generated; a view will do. Only
    penalties, `min_tokens` and bad words look at it.
    end_ids: tokens that would end the sequence; forbidden until `params.min_tokens` tokens are generated.
    bad_words: the token sequences of `params.bad_words`, tokenized by the engine.
    mask: int32[words], bit t % 32 of element t // 32 is 1 where token t may come next; None where any may.
    """

    params: SamplingParams
    seed: int
    position: int
    tokens: np.ndarray = dataclasses.field(default_factory=lambda: _NOTHING)
    num_prompt: int = 0
    end_ids: Collection[int] = ()
    bad_words: Sequence[Sequence[int]] = ()
    mask: np.ndarray | None = None

    @property
    def top(self) -> int | None:
        """How many top log probabilities are wanted; 0: only the chosen token's (`best_of` ranks by it), None: none."""
        if self.params.logprobs is None and self.params.samples > self.params.n:
            return 0
        return self.params.logprobs


@dataclasses.dataclass(frozen=True, eq=False)
class TokenLogprobs:
    """Log probabilities at one position, of the logits as the model gave them.

    token, logprob, rank: a token, its log probability, and 1 + how many tokens are more likely.
    top_ids int32[n], top_logprobs float32[n]: the n most likely tokens, the best first (of equals the lower id).
    """

    token: int
    logprob: float
    rank: int
    top_ids: np.ndarray
    top_logprobs: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Sampled:
    """tokens: int32[r], the choice of every row, NO_TOKEN where there is none. logprobs: of the rows that asked for them."""

    tokens: np.ndarray
    logprobs: tuple[TokenLogprobs | None, ...]

    def tolist(self) -> list[int]:
        """The tokens as numbers."""
        return [int(token) for token in self.tokens]


def random_bits(seed: int, position: int) -> int:
    """64 random bits: two rounds of splitmix64 (Steele et al., 2014) over seed and position."""
    return _splitmix(_splitmix(seed) ^ position)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits."""
    return (random_bits(seed, position) >> 11) * 2.0**-53


def sample_seed(seed: int, index: int) -> int:
    """The seed of answer `index` of a request with n > 1; answer 0 has the request's own."""
    return seed if index == 0 else _splitmix(_splitmix(seed ^ _MASK) ^ index)


def _splitmix(state: int) -> int:
    z = (state + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
