"""Requests for engine.py: seeded, as token ids, so that every system gets the same ones; and what is read off the answers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Workload:
    """Prompts, how many tokens to generate for each, and when they come, in seconds; `arrivals` None: all at once."""

    prompts: list[list[int]]
    counts: list[int]
    arrivals: list[float] | None = None

    @property
    def generated(self) -> int:
        """Tokens to generate in all."""
        return sum(self.counts)

    def poisson(self, rate: float, seed: int) -> Workload:
        """The same requests, `rate` of them a second in the mean, independently of each other."""
        gaps = np.random.default_rng(seed).exponential(1 / rate, len(self.prompts))
        return dataclasses.replace(self, arrivals=(np.cumsum(gaps) - gaps[0]).tolist())


def mixed(requests: int, vocab: int, seed: int) -> Workload:
    """Prompts of 32 to 512 tokens, outputs of 16 to 128, all lengths equally likely."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(32, 513, requests)
    return Workload([_tokens(rng, vocab, n) for n in lengths], rng.integers(16, 129, requests).tolist())


def shared_prefix(requests: int, common: int, vocab: int, seed: int) -> Workload:
    """Prompts of the same `common` tokens and 16 to 64 of their own, 16 tokens each to generate."""
    return groups([requests], common, 16, vocab, seed)


def groups(sizes: Sequence[int], common: int, count: int, vocab: int, seed: int) -> Workload:
    """Groups of requests with a prefix of `common` tokens each and 16 to 64 of their own, shuffled; `count` to generate."""
    rng = np.random.default_rng(seed)
    prompts = []
    for size in sizes:
        prefix = _tokens(rng, vocab, common)
        prompts += [prefix + _tokens(rng, vocab, rng.integers(16, 65)) for _ in range(size)]
    order = rng.permutation(len(prompts))
    return Workload([prompts[i] for i in order], [count] * len(prompts))


def _tokens(rng: np.random.Generator, vocab: int, count: int) -> list[int]:
    return [int(token) for token in rng.integers(300, vocab, count)]  # the first ones have names and uses of their own


@dataclasses.dataclass(frozen=True)
class Latency:
    """Milliseconds: between tokens of a request, and from its arrival to its first token; half are below p50."""

    between_p50: float
    between_p99: float
    first_p50: float
    first_p99: float

    @classmethod
    def of(cls, times: Sequence[Sequence[float]]) -> Latency:
        """From the seconds of all tokens of all requests."""
        gaps = [b - a for request in times for a, b in itertools.pairwise(request)]
        found = [np.percentile(values, [50, 99]) * 1e3 for values in (gaps, [request[0] for request in times])]
        return cls(*(float(value) for pair in found for value in pair))
