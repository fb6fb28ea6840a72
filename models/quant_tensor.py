"""Weights that a checkpoint stores quantized, in one neutral form whatever the format they came from."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np

NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
"""The types of weights that are read, by our names."""


@dataclasses.dataclass(frozen=True)
class QuantInfo:
    """What is known of a quantized tensor before it is read.

    `label` is what users call the format (`Q4_K`, `AWQ 4-bit g128`). `holds` names the weight format whose layout holds these
    very codes (`w4-g32`), empty where none does; `suggests` the format to quantize the values to instead, empty where they
    are better dequantized. `transposed` codes are those of the tensor's transpose (GGUF keeps GPT-2's matrices like all others).
    """

    label: str
    holds: str = ""
    suggests: str = ""
    transposed: bool = False


@dataclasses.dataclass(frozen=True)
class QuantTensor:
    """w = (codes - zeros) * scales + mins in float32, rounded to `dtype`: what the format's own decoder gives, bit by bit.

    `codes` uint8 [N, K]; `scales` float32 [N, G], each for K / G consecutive columns; `zeros` one number for all or
    float32 [N, G]; `mins` float32 [N, G] or None for 0.
    """

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | float
    mins: np.ndarray | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        rows, columns = self.codes.shape
        groups = self.scales.shape[1]
        if self.codes.dtype != np.uint8 or len(self.scales) != rows or columns % groups:
            raise ValueError(f"codes {self.codes.dtype}{self.codes.shape} do not go with scales {self.scales.shape}")
        for name, array in (("zeros", self.zeros), ("mins", self.mins)):
            if isinstance(array, np.ndarray) and array.shape != self.scales.shape:
                raise ValueError(f"{name} {array.shape} do not go with scales {self.scales.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """Output channels and columns."""
        rows, columns = self.codes.shape
        return rows, columns

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    def dequantize(self) -> np.ndarray:
        """The values [N, K] in `dtype`."""
        w = self.codes.reshape(*self.scales.shape, self.group).astype(np.float32)
        zeros = self.zeros[..., None] if isinstance(self.zeros, np.ndarray) else np.float32(self.zeros)
        w -= zeros
        w *= self.scales[..., None]
        if self.mins is not None:
            w += self.mins[..., None]
        return w.reshape(self.shape).astype(NUMPY_DTYPES[self.dtype], copy=False)

    def rows(self, index: np.ndarray | slice) -> QuantTensor:
        """The tensor of some output channels."""
        zeros = self.zeros[index] if isinstance(self.zeros, np.ndarray) else self.zeros
        mins = None if self.mins is None else self.mins[index]
        return QuantTensor(self.codes[index], self.scales[index], zeros, mins, self.dtype)
