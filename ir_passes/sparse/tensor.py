"""Tensors of a program: a logical shape, and the format that stores them."""

from __future__ import annotations

import dataclasses
from typing import Any

from .axes import Buffer, Value, buffer, index
from .errors import SparseError
from .format import Format
from .text import text


@dataclasses.dataclass(eq=False)
class Tensor:
    """A tensor of logical shape `shape`; `fmt` stores its first dimensions, the others are dense (no format: all are).

    `row_local` keeps it inside the block of fused rows: True for a dense one, for one with a format a bound on the entries of
    a row. `t[i, j]` is a load at logical coordinates.

    `miss` is the value where nothing is stored, for accesses off the walk. Left out it is 0, and such accesses are allowed only
    where that cannot be a mistake (products with what is walked, see `check_access`); stated, they are allowed everywhere.
    """

    name: str
    shape: tuple[Value, ...]
    fmt: Format | None = None
    dtype: str = "float32"
    row_local: bool | int = False
    miss: float | None = None
    logical: Buffer = dataclasses.field(init=False)
    data: Buffer | None = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.shape = tuple(self.shape)
        self.logical = buffer(self.name, self.shape, self.dtype)
        self.data = None
        if self.fmt is None:
            self.data = self.logical
        elif not self.row_local:
            self.data = buffer(f"{self.name}_data", (*self.fmt.storage(), *self.tail), self.dtype)

    @property
    def missing(self) -> float:
        """The value of entries that are not stored."""
        return 0.0 if self.miss is None else self.miss

    @property
    def tail(self) -> tuple[Value, ...]:
        """The dense dimensions after those of the format."""
        return self.shape[self.fmt.ndim :] if self.fmt else ()

    def __getitem__(self, coords: Any) -> Any:
        at = coords if isinstance(coords, tuple) else (coords,)
        if len(at) != len(self.shape):
            raise SparseError(
                f"{self.name} is indexed with {len(at)} coordinates, it has {len(self.shape)} dimensions",
                fix="give one coordinate for each dimension",
            )
        return self.logical[tuple(index(c) for c in at)]

    def __str__(self) -> str:
        shape = ", ".join(map(text, self.shape))
        where = f" in {self.fmt.name}" if self.fmt else ""
        local = " row-local" if self.row_local else ""
        miss = "" if self.miss is None else f" else {self.miss:g}"
        return f"{self.name}: {self.dtype}[{shape}]{where}{miss}{local}"
