"""Two-level scales: an integer 1..15 per group times a float32 per output channel.

Products of codes with activations can then be summed in int32 over all of K, with one float operation per output: what
makes prefill fast. The idea is QServe's progressive quantization (Lin et al., 2024).
"""

from __future__ import annotations

import numpy as np

from ...schedules.layouts.scheme import MAX_GROUP_SCALE, WeightFormat
from .search import Candidate, best, candidates, squared_error

CHANNEL_SHRINKS = (1.0, 0.9)
"""Channel scales to try: that of the channel's widest group, and one that clips it and is finer for the others."""


def two_level(
    t: np.ndarray, channels: int, fmt: WeightFormat, search: bool = True
) -> tuple[np.ndarray, np.ndarray, Candidate]:
    """Channel scales float32 [channels], integer group scales uint8 [groups], and their products with the zero points.

    `t` is [size, groups], the groups of a channel side by side. Each channel scale gets the best integers for its groups;
    the channel keeps the one with the least squared error.
    """
    wished = [(np.abs(scale), zero) for scale, zero in candidates(t, fmt, None if search else 1)]
    widest = wished[0][0].reshape(channels, -1).max(1) * np.float32(1 / MAX_GROUP_SCALE)
    least: np.ndarray | None = None
    for shrink in CHANNEL_SHRINKS if search else (1.0,):
        channel = widest * np.float32(shrink)
        per_group = np.repeat(channel, t.shape[1] // channels)
        scale, zero = best(t, [_representable(s, z, per_group, fmt) for s, z in wished], fmt)
        error = squared_error(t, (scale, zero), fmt).reshape(channels, -1).sum(1)
        if least is None:
            least, chosen, scales, zeros = error, channel, scale, zero
            continue
        better = error < least
        groups = np.repeat(better, t.shape[1] // channels)
        chosen, least = np.where(better, channel, chosen), np.where(better, error, least)
        scales, zeros = np.where(groups, scale, scales), np.where(groups, zero, zeros)
    return chosen, _integers(scales, np.repeat(chosen, t.shape[1] // channels)).astype(np.uint8), (scales, zeros)


def _representable(scale: np.ndarray, zero: np.ndarray, channel: np.ndarray, fmt: WeightFormat) -> Candidate:
    """The nearest candidate whose scale is an integer times the channel's; its zero point stands for the same weight."""
    rounded = _integers(scale, channel) * channel
    if fmt.symmetric:
        return rounded, zero
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.where(rounded > 0, np.rint(zero * (scale / rounded)), zero)
    return rounded, np.clip(moved, 0, fmt.codes[1]).astype(np.float32)


def _integers(scales: np.ndarray, channel: np.ndarray) -> np.ndarray:
    """The group scales nearest to `scales`, as float32; 1 in channels of zeros."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(channel > 0, scales / channel, np.float32(1))
    return np.clip(np.rint(ratio), 1, MAX_GROUP_SCALE).astype(np.float32)
