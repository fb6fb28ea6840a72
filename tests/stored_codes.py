"""Checkpoints that are quantized already, made of a float one: neutral tensors with the numbers of well-known formats."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from heddle.models import QuantInfo, QuantTensor, TensorInfo, open_source

FORMATS = {
    "Q4_0": QuantInfo("Q4_0", "w4-g32"),
    "Q4_1": QuantInfo("Q4_1", "w4-g32-min"),
    "Q4_K": QuantInfo("Q4_K", "w4-g32-min"),
    "Q5_0": QuantInfo("Q5_0", "w8-g32"),
    "Q5_1": QuantInfo("Q5_1", "w8-g32-min"),
    "Q8_0": QuantInfo("Q8_0", "w8-g32"),
    "Q6_K": QuantInfo("Q6_K", "", "w8-g32"),
    "AWQ": QuantInfo("AWQ 4-bit g64", "w4-g64-asym"),
    "q4f16_1": QuantInfo("q4f16_1", "w4-g32-asym"),
    "int8": QuantInfo("int8 per channel", "w8-pc"),
    "FP8": QuantInfo("FP8"),
}
BITS = {"Q5_0": 5, "Q5_1": 5, "Q8_0": 8, "Q6_K": 6, "int8": 8, "FP8": 8}  # the others have 4


def encoded(w: np.ndarray, name: str) -> QuantTensor:
    """w [N, K] rounded to the nearest of what a format can say; its values are float32."""
    rows, columns = w.shape
    size, top = {"AWQ": 64, "int8": columns, "FP8": columns, "Q6_K": 16}.get(name, 32), (1 << BITS.get(name, 4)) - 1
    groups = w.astype(np.float32).reshape(rows, -1, size)
    low, high = groups.min(-1), groups.max(-1)
    if name in ("Q4_1", "Q4_K", "Q5_1"):
        scales, mins = _two_levels(np.maximum(high - low, 1e-6) / top), -_two_levels(np.maximum(-low, 1e-6))
        if name != "Q4_K":
            scales, mins = (v.astype(np.float16).astype(np.float32) for v in (scales, mins))
        codes = np.rint((groups - mins[..., None]) / scales[..., None])
        return QuantTensor(_bytes(codes, top, w), scales, 0.0, mins)
    if name == "AWQ":
        scales = ((high - low) / top).astype(np.float16).astype(np.float32)
        zeros = np.clip(np.rint(-low / scales), 0, top)
        codes = np.rint(groups / scales[..., None]) + zeros[..., None]
        return QuantTensor(_bytes(codes, top, w), scales, zeros)
    zero = 7 if name == "q4f16_1" else (top + 1) // 2
    scales = (np.abs(groups).max(-1) / (zero - (name != "q4f16_1"))).astype(np.float16).astype(np.float32)
    return QuantTensor(_bytes(np.rint(groups / scales[..., None]) + zero, top, w), scales, float(zero))


def _two_levels(values: np.ndarray) -> np.ndarray:
    """Positive values as a float16 for each row times integers up to 63: more digits than a float16 has."""
    step = (values.max(1, keepdims=True) / 63).astype(np.float16).astype(np.float32)
    return np.clip(np.rint(values / step), 1, 63).astype(np.float32) * step


def _bytes(codes: np.ndarray, top: int, w: np.ndarray) -> np.ndarray:
    return np.clip(codes, 0, top).astype(np.uint8).reshape(w.shape)


class StoredCodes:
    """The tensors of a float checkpoint, those that a pattern names quantized by a format of FORMATS; the last pattern counts."""

    def __init__(self, floats: Any, formats: Mapping[str, str]) -> None:
        self._floats = floats
        self._formats = {
            name: found[-1]
            for name in floats.tensors
            if (found := [how for pattern, how in formats.items() if fnmatchcase(name, pattern)])
        }
        self.tensors = {
            name: TensorInfo("float32", info.shape, FORMATS[self._formats[name]]) if name in self._formats else info
            for name, info in floats.tensors.items()
        }

    def read(self, name: str) -> np.ndarray:
        """Floats, of codes what they stand for."""
        return self.read_quantized(name).dequantize() if name in self._formats else self._floats.read(name)

    def read_quantized(self, name: str) -> QuantTensor:
        """Codes."""
        return encoded(self._floats.read(name), self._formats[name])

    def identity(self) -> str:
        """That of the floats, and the formats."""
        return self._floats.identity() + repr(sorted(self._formats.items()))


class StoredModel:
    """A model directory whose checkpoint is `StoredCodes`."""

    name = "directory with codes"

    def __init__(self, path: Path, formats: Mapping[str, str]) -> None:
        self._source, self._formats = open_source(path), formats
        self.path, self.directory = self._source.path, self._source.directory
        self.config, self.files = self._source.config, self._source.files

    def checkpoint(self) -> StoredCodes:
        """The weights."""
        return StoredCodes(self._source.checkpoint(), self._formats)
