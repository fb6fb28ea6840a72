"""Scales of groups by search: round to nearest under several candidates, and keep the one with the least squared error.

Groups are columns here, [size, groups]: sums over a group then add rows in ascending order whatever stands beside it, so
that codes do not depend on how a matrix is cut into slices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from ...schedules.layouts.scheme import WeightFormat

Candidate = tuple[np.ndarray, np.ndarray]
"""Scales, and zero points or minima, float32 [groups] both."""

# A step of 1 / d of the largest magnitude. d = 7 is plain rounding, 8 puts the largest on code -8, more clips it.
STEPS = {4: (7.0, 7.5, 8.0, 8.5, 9.0), 8: (127.0, 132.0)}
SHRINKS = {4: (1.0, 0.95, 0.9, 0.85, 0.8), 8: (1.0, 0.96)}  # of the range, with zero points
# Of many values few are near the largest, and with heavy tails very few: finer steps and smaller ranges pay.
WIDE_STEPS = {4: (*STEPS[4], 10.0, 11.0, 12.0, 13.0, 14.0, 16.0, 18.0, 21.0, 24.0, 28.0, 32.0), 8: STEPS[8]}
WIDE_SHRINKS = {4: (*SHRINKS[4], 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.42, 0.35), 8: SHRINKS[8]}
WIDE = 512  # values of a group that count as many; with fewer, less squared error was more perplexity (docs/quantization.md)
SMALLEST = np.finfo(np.float32).tiny  # scales below, whose inverse may overflow, make all codes mean 0


def codes(t: np.ndarray, candidate: Candidate, fmt: WeightFormat) -> np.ndarray:
    """Codes minus zero points of t [size, groups], as float32; with minima the codes of what is above them."""
    scale, zero = candidate
    low, high = fmt.codes
    if fmt.minima:
        t, zero = t - zero, np.zeros_like(zero)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(np.abs(scale) >= SMALLEST, np.float32(1) / scale, np.float32(0))
        u = t * inverse
    np.rint(u, out=u)
    return np.clip(u, np.float32(low) - zero, np.float32(high) - zero, out=u)


def squared_error(t: np.ndarray, candidate: Candidate, fmt: WeightFormat) -> np.ndarray:
    """Sum over each group of (w - its code's value)**2, float32 [groups]."""
    u = codes(t, candidate, fmt)
    with np.errstate(over="ignore"):
        u *= candidate[0]
        if fmt.minima:
            u += candidate[1]
        u -= t
        u *= u
        return u.sum(0)


def best(t: np.ndarray, candidates: Iterable[Candidate], fmt: WeightFormat) -> Candidate:
    """Per group the first of the candidates with the least squared error."""
    least: np.ndarray | None = None
    for scale, zero in candidates:
        error = squared_error(t, (scale, zero), fmt)
        if least is None:
            least, scales, zeros = error, scale.copy(), zero.copy()
        else:
            better = error < least
            np.copyto(least, error, where=better)
            np.copyto(scales, scale, where=better)
            np.copyto(zeros, zero, where=better)
    return scales, zeros


def symmetric(t: np.ndarray, fmt: WeightFormat) -> Iterator[Candidate]:
    """Scales whose sign makes the largest value's code negative: 4-bit codes reach -8 but only +7."""
    smallest, largest = t.min(0), t.max(0)
    extreme = np.where(-smallest > largest, smallest, largest)
    zero = np.full(t.shape[1], fmt.zero, np.float32)
    for step in (WIDE_STEPS if len(t) > WIDE else STEPS)[fmt.bits]:
        yield extreme * np.float32(-1 / step), zero


def asymmetric(t: np.ndarray, fmt: WeightFormat) -> Iterator[Candidate]:
    """The range from the smallest to the largest value, 0 included, and shrunk ones with the same zero point."""
    high = np.float32(fmt.codes[1])
    lowest = np.minimum(t.min(0), 0)
    scale = np.maximum(t.max(0), 0) / high - lowest / high  # each divided first: the range itself may overflow
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.where(scale > 0, np.rint(np.clip(-lowest / scale, 0, high)), np.float32(fmt.zero))
    for shrink in (WIDE_SHRINKS if len(t) > WIDE else SHRINKS)[fmt.bits]:
        yield scale * np.float32(shrink), zero


def from_minima(t: np.ndarray, fmt: WeightFormat) -> Iterator[Candidate]:
    """The range from the smallest to the largest value, and ranges shrunk around their middle."""
    lowest, highest = t.min(0), t.max(0)
    for shrink in (WIDE_SHRINKS if len(t) > WIDE else SHRINKS)[fmt.bits]:
        width = (highest - lowest) * np.float32(shrink)
        yield width / np.float32(fmt.codes[1]), (lowest + highest - width) / np.float32(2)


def candidates(t: np.ndarray, fmt: WeightFormat, count: int | None = None) -> list[Candidate]:
    """The first `count` candidates (None: all), before their scales are rounded; the first is plain rounding."""
    ranges = from_minima if fmt.minima else symmetric if fmt.symmetric else asymmetric
    return list(itertools.islice(ranges(t, fmt), count))


def least_squares(t: np.ndarray, chosen: Candidate, fmt: WeightFormat) -> Candidate:
    """Scales that fit the chosen codes best: <w, u> / <u, u> per group, 0 where all codes are 0. Minima are fitted too."""
    u = codes(t, chosen, fmt)
    if fmt.minima:
        return _line(t, u, chosen)
    weight = (u * u).sum(0)
    with np.errstate(over="ignore", invalid="ignore"):
        u *= t
        fitted = u.sum(0) / np.maximum(weight, np.float32(1))
    return np.where(np.isfinite(fitted), fitted, chosen[0]), chosen[1]


def _line(t: np.ndarray, u: np.ndarray, chosen: Candidate) -> Candidate:
    """The line minimum + scale * code nearest to each group; the chosen one where all codes are equal."""
    size = np.float32(len(t))
    middle, mean = u.sum(0) / size, t.sum(0) / size
    u -= middle
    spread = (u * u).sum(0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scale = (u * (t - mean)).sum(0) / spread
        minimum = mean - scale * middle
    fine = np.isfinite(scale) & np.isfinite(minimum) & (spread > 0)
    return np.where(fine, scale, chosen[0]), np.where(fine, minimum, chosen[1])
