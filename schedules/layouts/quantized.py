"""A quantized matrix: its values by channel and group, and the packed arrays that its kernels read, by name.

`codes` as `int4` or `int8` pack them; `scales` [tiles, groups, 16] float16, or uint8 with two-level scales; `zeros`
[tiles, groups, 16] uint8 in asymmetric formats; `mins` [tiles, groups, 16] float16 with minima; `channels` [tiles, 16]
float32 with two-level scales. Kernels take the arrays in this order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import int4, int8, tile16
from .scheme import WeightFormat

_CODES = {4: int4, 8: int8}


def packed_arrays(
    fmt: WeightFormat, rows: int, columns: int, parts: int = 1
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and element type of each packed array of a matrix [rows, columns] of `parts` equal parts, in kernel order.

    Raises ValueError where the columns are no multiple of the group or block, or the rows none of the parts.
    """
    groups, count = fmt.groups(columns), tile16.tiles(rows, parts)
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        "codes": (_CODES[fmt.bits].packed_shape(rows, columns, parts), np.dtype(np.uint8)),
        "scales": ((count, groups, tile16.TILE), np.dtype(np.uint8 if fmt.two_level else np.float16)),
    }
    if not fmt.symmetric:
        arrays["zeros"] = (count, groups, tile16.TILE), np.dtype(np.uint8)
    if fmt.minima:
        arrays["mins"] = (count, groups, tile16.TILE), np.dtype(np.float16)
    if fmt.two_level:
        arrays["channels"] = (count, tile16.TILE), np.dtype(np.float32)
    return arrays


@dataclasses.dataclass(frozen=True)
class QuantizedMatrix:
    """w [N, K] = (codes - zeros) * scales * channels + mins, each group of k's with its own scale and zero or minimum.

    `codes` uint8 [N, K]; `scales` float16 (two-level: uint8) [N, groups]; `zeros` uint8 [N, groups] or None for the
    format's zero; `channels` float32 [N] or None for 1; `mins` float16 [N, groups] or None for 0.
    """

    format: WeightFormat
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None = None
    channels: np.ndarray | None = None
    mins: np.ndarray | None = None

    def pack(self, parts: int = 1) -> dict[str, np.ndarray]:
        """The packed arrays by name, in kernel order. Padding channels have scales (and minima) of 0."""
        arrays = {
            "codes": _CODES[self.format.bits].pack(self.codes, parts),
            "scales": tile16.pack_groups(self.scales, parts),
        }
        if self.zeros is not None:
            arrays["zeros"] = tile16.pack_groups(self.zeros, parts, self.format.zero)
        if self.mins is not None:
            arrays["mins"] = tile16.pack_groups(self.mins, parts)
        if self.channels is not None:
            arrays["channels"] = tile16.pack_channels(self.channels, parts)
        return arrays

    @classmethod
    def unpack(cls, fmt: WeightFormat, arrays: Mapping[str, np.ndarray], rows: int, parts: int = 1) -> QuantizedMatrix:
        """The inverse of `pack` for a matrix of `rows` rows."""
        zeros = None if fmt.symmetric else tile16.unpack_groups(arrays["zeros"], rows, parts)
        channels = tile16.unpack_channels(arrays["channels"], rows, parts) if fmt.two_level else None
        mins = tile16.unpack_groups(arrays["mins"], rows, parts) if fmt.minima else None
        codes = _CODES[fmt.bits].unpack(arrays["codes"], rows, parts)
        return cls(fmt, codes, tile16.unpack_groups(arrays["scales"], rows, parts), zeros, channels, mins)

    @classmethod
    def concatenate(cls, pieces: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
        """The rows of several matrices of one format and width, one after the other."""
        if len(pieces) == 1:
            return pieces[0]
        joined: dict[str, Any] = {}
        for field in dataclasses.fields(cls)[1:]:
            arrays = [getattr(piece, field.name) for piece in pieces]
            joined[field.name] = None if arrays[0] is None else np.concatenate(arrays)
        return cls(pieces[0].format, **joined)

    def centred(self) -> np.ndarray:
        """Codes minus zero points, int32 [N, groups, k's of a group]."""
        codes = self.codes.reshape(*self.scales.shape, -1).astype(np.int32)
        return codes - (self.format.zero if self.zeros is None else self.zeros[..., None].astype(np.int32))

    def dequantize(self) -> np.ndarray:
        """float32 [N, K]: (code - zero) * scale, then * channel scale or + minimum, each rounded to float32.

        (A code times a float16 scale is exact in float32, so with a minimum there is one rounding, as of an fma.)
        """
        w = self.centred().astype(np.float32) * self.scales.astype(np.float32)[..., None]
        if self.channels is not None:
            w *= self.channels[:, None, None]
        if self.mins is not None:
            w += self.mins.astype(np.float32)[..., None]
        return w.reshape(self.codes.shape)
