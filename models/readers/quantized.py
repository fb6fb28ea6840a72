"""Checkpoints whose matrices are stored quantized, each in several tensors: codes, scales, zero points."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ...schedules.layouts.scheme import BLOCK, GROUPS, WeightFormat
from ..quant_tensor import NUMPY_DTYPES, QuantInfo, QuantTensor
from ..weights import TensorInfo, TensorSource


@dataclasses.dataclass(frozen=True)
class StoredMatrix:
    """A matrix, the names of the tensors that hold it, and how it is decoded.

    `decode` gives a QuantTensor, or values in `info.dtype` where the format's codes are no multiples of a step.
    """

    info: TensorInfo
    tensors: tuple[str, ...]
    decode: Callable[[], QuantTensor | np.ndarray]


class QuantizedCheckpoint:
    """A checkpoint with matrices in the place of the tensors that hold them; all others are as they are.

    `dropped` are tensors without a part in the weights, such as scales of activations, which are computed here. `how` is all
    that decoding depends on beside the stored tensors, as text.
    """

    def __init__(
        self,
        base: TensorSource,
        matrices: Mapping[str, StoredMatrix],
        dropped: Iterable[str] = (),
        *,
        how: str = "",
    ) -> None:
        self._base, self._matrices, self._how = base, dict(matrices), how
        used = {name for matrix in matrices.values() for name in matrix.tensors} | {*dropped}
        plain = {name: info for name, info in base.tensors.items() if name not in used}
        self.tensors = plain | {name: matrix.info for name, matrix in matrices.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantized as the format's own decoder does; KeyError where there is none."""
        if name not in self._matrices:
            if name not in self.tensors:
                raise KeyError(name)
            return self._base.read(name)
        value = self._matrices[name].decode()
        return value.dequantize() if isinstance(value, QuantTensor) else value

    def read_quantized(self, name: str) -> QuantTensor:
        """A matrix as it is stored; KeyError where none holds it."""
        info = self.tensors[name]
        if info.quant is None or not info.quant.holds:
            raise KeyError(name)
        value = self._matrices[name].decode()
        assert isinstance(value, QuantTensor)
        return value

    def identity(self) -> str:
        """A digest that changes with the stored tensors and with what is made of them."""
        return hashlib.sha256(f"quantized {self._base.identity()} {self._how}".encode()).hexdigest()


def holding(bits: int, group: int, columns: int, *, symmetric: bool) -> str:
    """The weight format that holds codes of `bits` bits in groups of `group` columns, empty where none does.

    Narrow codes fit into 4 bits, and a larger group is several with one scale.
    """
    width = 4 if bits <= 4 else 8
    size = next((g for g in sorted(GROUPS, reverse=True) if group % g == 0), None)
    if bits > 8 or columns % group or columns % BLOCK[width] or (size is None and group != columns):
        return ""
    return WeightFormat(width, None if group == columns else size, symmetric).name


def nearest_format(columns: int, group: int = 0) -> str:
    """The 8-bit format to quantize to where none holds the codes; `group` columns have a scale, 0 for a whole row."""
    if group and (size := next((g for g in sorted(GROUPS, reverse=True) if g <= group and columns % g == 0), None)):
        return WeightFormat(8, size).name
    return WeightFormat(8, None).name if columns % BLOCK[8] == 0 else ""


def integer_info(
    label: str, dtype: str, shape: tuple[int, int], bits: int, group: int, *, symmetric: bool
) -> TensorInfo:
    """The info of a matrix of integer codes in groups of consecutive columns."""
    holds = holding(bits, group, shape[1], symmetric=symmetric)
    return TensorInfo(dtype, shape, QuantInfo(label, holds, "" if holds else nearest_format(shape[1], 32)))


def integer_tensor(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | int, dtype: str) -> QuantTensor:
    """A QuantTensor of codes and zero points of any integer type and scales of any float type."""
    points = np.ascontiguousarray(zeros, np.float32) if isinstance(zeros, np.ndarray) else float(zeros)
    return QuantTensor(np.ascontiguousarray(codes), np.ascontiguousarray(scales, np.float32), points, None, dtype)


def dequantize_columns(
    codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | int, index: np.ndarray, dtype: str
) -> np.ndarray:
    """(codes - zeros) * scales rounded to `dtype`, where column k of codes [N, K] is in the group index[k]."""
    w = codes.astype(np.float32)
    w -= _spread(zeros, index) if isinstance(zeros, np.ndarray) else np.float32(zeros)
    w *= _spread(scales, index)
    return w.astype(NUMPY_DTYPES[dtype])


def _spread(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).take(index, axis=1)


def unpack_bits(words: np.ndarray, bits: int) -> np.ndarray:
    """32-bit words [..., n] as codes uint8 [..., n * (32 // bits)], the lowest bits first."""
    words = np.ascontiguousarray(words).view(np.uint32)
    out = np.empty((*words.shape, 32 // bits), np.uint8)
    for i in range(32 // bits):
        out[..., i] = (words >> np.uint32(i * bits)) & np.uint32((1 << bits) - 1)
    return out.reshape(*words.shape[:-1], -1)


def unpack_stream(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """32-bit words [..., n] as `count` codes uint8, bit after bit without gaps, the lowest first."""
    if 32 % bits == 0:
        return unpack_bits(words, bits)[..., :count]
    raw = np.ascontiguousarray(words).view(np.uint8)
    flat = np.unpackbits(raw, axis=-1, bitorder="little")[..., : count * bits]
    return np.packbits(flat.reshape(*flat.shape[:-1], count, bits), axis=-1, bitorder="little")[..., 0]
