"""The quantized linear in NumPy: what every kernel of every row class and target computes, bit by bit.

    Codes of activations times codes of weights minus zero points are summed in int32 per group: exact in any order.
    Group sums join in ascending order, `acc = fma(float(sum), scale, acc)` from +0, where scale is the weight's, times
    the activation's where that has one per group. A scale per token multiplies once at the end: acc * scale.
    Minima: the sum has no zero, and `acc = fma(float(sum of the row's codes), minimum, acc)` follows, times the activation's
    scale likewise.
    Two-level: sums times the integer group scales add up in int32 over all of K; float(sum) * (channel * token scale).
    Limbs: both sums are exact; `float(sum)` above is `fma(float(high), 128, float(low))`, one rounding. (Where both are
    below 2**24, as in any group of up to 128, the int32 sum 128 * high + low converted to float is the same number.)
    f32: part = fma(float(code - zero), x, part) from +0 over ascending k of a group, acc = fma(part, scale, acc); with
    two levels acc is multiplied by the channel scale at the end. With minima the weight itself takes the place of code -
    zero, and 1 that of the scale.

Then the epilogue in its order. `fma` here is exact, so the tolerance is 0 where the epilogue is exact.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from .. import epilogue as epilogues
from ..layouts.quantized import QuantizedMatrix
from .quantize import TINY, quantize_rows

LIMB_PEAK = 16256  # 127 * 128: the code of a row's largest magnitude, so that the high limb stays within int8


def fma(a: np.ndarray, b: np.ndarray | np.float32, c: np.ndarray) -> np.ndarray:
    """a * b + c of float32, rounded once.

    The product is exact in float64. Its sum with c is rounded to odd (the error of the sum, found by Knuth's TwoSum,
    sets the last bit), after which rounding to float32 is rounding the exact value: Boldo and Melquiond, "Emulation of
    a FMA and correctly rounded sums", 2008.
    """
    product, addend = a.astype(np.float64) * np.float64(b), c.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        total = product + addend
        back = total - product
        error = (product - (total - back)) + (addend - back)
        even = (np.ascontiguousarray(total).view(np.int64) & 1) == 0
        away = np.where(error > 0, np.inf, -np.inf)
        odd = np.where((error != 0) & np.isfinite(error) & even, np.nextafter(total, away), total)
        return odd.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class QuantizedRows:
    """Activations [n, K] as x = scales * (codes[0]) or scales * (128 * codes[0] + codes[1]).

    `codes` int8 [1 or 2 limbs, n, K]; `scales` float32 [n, 1], or [n, groups] with one per group.
    """

    codes: np.ndarray
    scales: np.ndarray

    def dequantize(self) -> np.ndarray:
        """float32 [n, K]."""
        values = self.codes[0].astype(np.float32)
        if len(self.codes) == 2:
            values = values * np.float32(128) + self.codes[1]
        return (values.reshape(*self.scales.shape, -1) * self.scales[..., None]).reshape(values.shape)


def quantize_limbs(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Limbs int8 [2, n, K] and scales float32 [n]: code = round to even of x * (16256 / largest) = 128 * high + low.

    low is in -64..63 and high in -127..127. Rows of zeros and rows with a NaN are as in `quantize_rows`.
    """
    peak = np.abs(x).max(-1, keepdims=True).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = np.where(peak > np.float32(TINY), np.float32(LIMB_PEAK) / peak, np.float32(0)).astype(np.float32)
    codes = np.rint(np.where(inverse > 0, x * inverse, np.float32(0))).astype(np.int32)
    high = (codes + 64) >> 7
    return np.stack([high, codes - (high << 7)]).astype(np.int8), (peak * np.float32(1 / LIMB_PEAK))[..., 0]


def quantize_activations(x: np.ndarray, activation: str, group: int) -> QuantizedRows:
    """x float32 [n, K] in the activation format limbs, int8 or int8-group (with groups of `group` k's)."""
    if activation == "limbs":
        limbs, scales = quantize_limbs(x)
        return QuantizedRows(limbs, scales[:, None])
    if activation == "int8":
        codes, scales = quantize_rows(x)
        return QuantizedRows(codes[None], scales[:, None])
    if activation == "int8-group":
        codes, scales = quantize_rows(x.reshape(len(x), -1, group))
        return QuantizedRows(codes.reshape(1, *x.shape), scales)
    raise ValueError(f"activations in {activation!r} are not quantized; choose limbs, int8 or int8-group")


def _group_sums(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """int32 [n, N, groups] of x int8 [n, K] and w int32 [N, groups, size]. float64 products of groups are exact."""
    _, groups, size = w.shape
    by_group = x.reshape(len(x), groups, size).transpose(1, 0, 2).astype(np.float64)
    return (by_group @ w.transpose(1, 2, 0).astype(np.float64)).transpose(1, 2, 0).astype(np.int32)


def matmul_quantized(x: QuantizedRows, w: QuantizedMatrix) -> np.ndarray:
    """float32 [n, N] of quantized activations and weights, in the order of operations above."""
    centred = w.centred()
    limbs = [_group_sums(limb, centred) for limb in x.codes]
    if w.channels is not None:
        limbs = [(sums * w.scales.astype(np.int32)).sum(-1, dtype=np.int32)[..., None] for sums in limbs]
    values = _joined(limbs)
    if w.channels is not None:
        return values[..., 0] * (w.channels * x.scales)
    groups, per_group = centred.shape[1], x.scales.shape[1] == centred.shape[1] > 1
    x_sums = _joined([limb.reshape(len(limb), groups, -1).sum(-1, dtype=np.int32) for limb in x.codes])  # [n, groups]
    acc = np.zeros(values.shape[:2], np.float32)
    for g in range(groups):
        factors = [(values[..., g], w.scales)]
        if w.mins is not None:
            factors.append((np.broadcast_to(x_sums[:, g : g + 1], acc.shape), w.mins))
        for value, by in factors:
            scale = np.broadcast_to(by[:, g].astype(np.float32), acc.shape)
            acc = fma(value, scale * x.scales[:, g : g + 1] if per_group else scale, acc)
    return acc if per_group else acc * x.scales


def _joined(limbs: list[np.ndarray]) -> np.ndarray:
    """float32 of int32 sums: one limb, or 128 * high + low with one rounding."""
    values = limbs[0].astype(np.float32)
    return values if len(limbs) == 1 else fma(values, np.float32(128), limbs[1].astype(np.float32))


def matmul_f32(x: np.ndarray, w: QuantizedMatrix) -> np.ndarray:
    """float32 [n, N] of float32 activations and quantized weights, in the order of operations above."""
    channels, groups = w.scales.shape
    whole = w.mins is not None
    centred = (w.dequantize() if whole else w.centred().astype(np.float32)).reshape(channels, groups, -1)
    scales = np.ones_like(w.scales, np.float32) if whole else w.scales.astype(np.float32)
    size = centred.shape[2]
    acc = np.zeros((len(x), channels), np.float32)
    for g in range(groups):
        part = np.zeros_like(acc)
        for k in range(size):
            part = fma(np.broadcast_to(centred[:, g, k], acc.shape), x[:, g * size + k, None], part)
        acc = fma(part, np.broadcast_to(scales[:, g], acc.shape), acc)
    return acc if w.channels is None else acc * w.channels


def linear(
    x: np.ndarray,
    w: QuantizedMatrix,
    activation: str,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    epilogue: epilogues.Epilogue = ("bias",),
) -> np.ndarray:
    """epilogue(x @ w.T) float32 for x float32 [n, K], with bias [channels of w] and residual [n, N] where it has them."""
    if activation == "f32":
        y = matmul_f32(x, w)
    else:
        y = matmul_quantized(quantize_activations(x, activation, w.format.group_size(x.shape[1])), w)
    return epilogues.reference(y, epilogue, bias, residual)
