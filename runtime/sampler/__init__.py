"""Choosing the next token of every sequence in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .draw import NO_TOKEN, Draw, Sampled, TokenLogprobs, random_bits, sample_seed, uniform
from .sampler import Sampler, SamplerKernels

__all__ = [
    "NO_TOKEN",
    "Draw",
    "Sampled",
    "Sampler",
    "SamplerKernels",
    "TokenLogprobs",
    "random_bits",
    "sample",
    "sample_seed",
    "uniform",
]


def sample(logits: np.ndarray, draws: Sequence[Draw], rows: Sequence[int] | None = None) -> Sampled:
    """`Sampler.sample` with NumPy: for the null device and tests. A model's runner has the artifact's sampler."""
    return Sampler().sample(logits, draws, rows)
