"""Symmetric 8-bit codes of a row: scale = largest magnitude / 127, code = round to nearest even of x * (127 / largest).

The expressions, and the same in NumPy bit by bit. A row of zeros has scale 0; one with a NaN has scale NaN, so that it shows.
"""

from __future__ import annotations

import numpy as np

from ..compat import T
from ..emit import Value

TINY = 1e-30  # below, 127 / largest would overflow: such rows count as zeros


def magnitude(x: Value) -> Value:
    """|x| as int32 bits, which order like the magnitudes, NaN above all."""
    return T.bitwise_and(T.reinterpret("int32", x), T.int32(0x7FFFFFFF))


def largest(bits: Value) -> Value:
    """The float of the largest bits."""
    return T.reinterpret("float32", bits)


def inverse_scale(peak: Value) -> Value:
    """127 / peak, 0 for rows that count as zeros and for NaN."""
    return T.Select(peak > T.float32(TINY), T.float32(127) / peak, T.float32(0))


def rounded(x: Value, inverse: Value) -> Value:
    """int32 nearest to x * inverse, ties to even; 0 where the inverse is 0."""
    code = T.Select(inverse > T.float32(0), x * inverse, T.float32(0))
    return T.cast(T.call_llvm_pure_intrin("float32", "llvm.nearbyint", code), "int32")


def quantize_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [..., n] and scales float32 [...] of the last dimension."""
    peak = np.abs(x).max(-1, keepdims=True).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.where(peak > np.float32(TINY), np.float32(127) / peak, np.float32(0)).astype(np.float32)
    codes = np.rint(np.where(inverse > 0, x * inverse, np.float32(0))).astype(np.int8)
    return codes, (peak * np.float32(1 / 127))[..., 0]
