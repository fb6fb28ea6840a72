"""How a parameter is cut out of a stored tensor: out of a fused projection, transposed, or with 1 added."""

from __future__ import annotations

import dataclasses

import numpy as np

from .quant_tensor import QuantTensor


@dataclasses.dataclass(frozen=True)
class View:
    """A parameter inside a stored tensor.

    The tensor is transposed first (GPT-2 stores [in, out]). Its rows are then `groups` equal blocks of `block` rows, and the
    parameter has the rows [start, start + rows of the parameter / groups) of each; `block` 0 means that it has all rows.
    With `fold` the stored tensor has that many equal parts of its rows along an axis of their own (Cohere's norms of heads).
    `offset` is added to the values (Gemma stores norm weights less 1).
    """

    transpose: bool = False
    groups: int = 1
    block: int = 0
    start: int = 0
    offset: float = 0.0
    fold: int = 0

    def stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor that holds a parameter of `shape`."""
        if self.block:
            shape = (self.groups * self.block, *shape[1:])
        if self.fold:
            shape = (self.fold, shape[0] // self.fold, *shape[1:])
        return shape[::-1] if self.transpose else shape

    def rows(self, count: int) -> slice | np.ndarray:
        """Which rows of the (transposed) tensor a parameter of `count` rows has."""
        if not self.block:
            return slice(None)
        each = count // self.groups
        if self.groups == 1:
            return slice(self.start, self.start + each)
        first = np.arange(self.groups)[:, None] * self.block + self.start
        return (first + np.arange(each)).reshape(-1)

    def apply(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The parameter of `shape` out of the stored array, a view of it where possible."""
        if self.transpose:
            array = array.T
        if self.fold:
            array = array.reshape(-1, *shape[1:])
        array = array[self.rows(shape[0])]
        return array.astype(np.float32) + np.float32(self.offset) if self.offset else array

    def apply_quantized(self, tensor: QuantTensor, shape: tuple[int, ...]) -> QuantTensor:
        """The same of codes that are transposed if the view transposes; `keeps_codes` says whether that is possible."""
        return tensor.rows(self.rows(shape[0]))

    def keeps_codes(self, transposed: bool) -> bool:
        """Whether a quantized tensor can be cut like this without being dequantized: groups run along the columns.

        `transposed` says that its codes are those of its transpose.
        """
        return self.transpose == transposed and not self.offset and not self.fold


WHOLE = View()
