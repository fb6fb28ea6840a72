"""Levels of a format: how many entries stand under a parent position, and at which coordinates.

Four kinds cover every format here (SparseTIR's axes, Ye et al. 2023; taco's level formats, Chou et al. 2018):

                number of entries fixed     number of entries from indptr
    dense       DenseFixed                  DenseVariable
    sparse      SparseFixed (ELL, row ids)  SparseVariable (CSR, page tables)

All arithmetic is int64; arrays hold int32.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ...schedules.compat import Analyzer, T, tirx
from .text import text

Value = Any  # a tirx expression or an int
Buffer = Any  # a tirx buffer

INDEX = "int64"


def index(value: Value) -> Value:
    """A position or coordinate as an int64 expression."""
    return tirx.IntImm(INDEX, value) if isinstance(value, int) else T.cast(value, INDEX)


def buffer(name: str, shape: tuple[Value, ...], dtype: str = "float32") -> Buffer:
    """An s_tir buffer (layout=None: the passes of s_tir do not know tirx's default layout)."""
    return tirx.decl_buffer([Analyzer().simplify(index(s)) for s in shape], dtype, name, layout=None)


@dataclasses.dataclass(frozen=True)
class Point:
    """Where an iteration stands on one level: number within the parent, position among all entries, coordinate."""

    rel: Value
    pos: Value
    coord: Value


@dataclasses.dataclass(eq=False)
class Axis:
    """One level; `length` bounds its coordinates. The parent is the level before it in the format."""

    name: str
    length: Value

    variable = False  # the number of entries is read from indptr
    sparse = False  # the coordinate is read from indices
    ordered = True  # under a parent, coordinates ascend and none stands twice: what a search needs (taco's ordered and unique)
    kind = ""

    @property
    def aux(self) -> tuple[Buffer, ...]:
        """The arrays that describe the level."""
        return ()

    def extent(self, parent: Value) -> Value:
        """Number of entries under a parent position."""
        return index(self.length)

    def position(self, parent: Value, x: Value) -> Value:
        """Position of entry x under a parent position."""
        return parent * self.extent(parent) + x

    def coordinate(self, pos: Value, x: Value) -> Value:
        """Coordinate of the entry at a position."""
        return x

    def size(self, parents: Value) -> Value:
        """Number of positions of the level, with this many parent positions."""
        return parents * self.extent(0)

    def __str__(self) -> str:
        arrays = "".join(f" {b.name}" for b in self.aux)
        return f"{self.name}: {self.kind}[{text(self.length)}]{arrays}{'' if self.ordered else ' unordered'}"


class DenseFixed(Axis):
    """All coordinates below `length`, under every parent."""

    kind = "dense fixed"


class DenseVariable(Axis):
    """Coordinates 0 .. extent - 1 under each of `parents` parents, `entries` in all; extents from indptr."""

    kind = "dense variable"
    variable = True

    def __init__(self, name: str, length: Value, entries: Value, parents: Value, prefix: str = "") -> None:
        super().__init__(name, length)
        self.entries = entries
        self.indptr = buffer(f"{prefix}{name}_indptr", (index(parents) + 1,), "int32")

    @property
    def aux(self) -> tuple[Buffer, ...]:
        return (self.indptr,)

    def extent(self, parent: Value) -> Value:
        return index(self.indptr[parent + 1]) - index(self.indptr[parent])

    def position(self, parent: Value, x: Value) -> Value:
        return index(self.indptr[parent]) + x

    def size(self, parents: Value) -> Value:
        return index(self.entries)


class SparseFixed(Axis):
    """`entries` entries under each of `parents` parents, their coordinates from indices.

    `ordered` by default where there is one parent (row ids): under several, rows are padded to one length.
    """

    kind = "sparse fixed"
    sparse = True

    def __init__(
        self,
        name: str,
        length: Value,
        entries: Value,
        parents: Value = 1,
        prefix: str = "",
        ordered: bool | None = None,
    ) -> None:
        super().__init__(name, length)
        self.entries = entries
        alone = isinstance(parents, int) and parents == 1
        self.ordered = alone if ordered is None else ordered
        count = entries if alone else index(parents) * index(entries)
        self.indices = buffer(f"{prefix}{name}_indices", (count,), "int32")

    @property
    def aux(self) -> tuple[Buffer, ...]:
        return (self.indices,)

    def extent(self, parent: Value) -> Value:
        return index(self.entries)

    def coordinate(self, pos: Value, x: Value) -> Value:
        return index(self.indices[pos])


class SparseVariable(DenseVariable):
    """Entries from indptr, their coordinates from indices, ascending under each parent (unless `ordered` is False)."""

    kind = "sparse variable"
    sparse = True

    def __init__(
        self, name: str, length: Value, entries: Value, parents: Value, prefix: str = "", ordered: bool = True
    ) -> None:
        super().__init__(name, length, entries, parents, prefix)
        self.ordered = ordered
        self.indices = buffer(f"{prefix}{name}_indices", (entries,), "int32")

    @property
    def aux(self) -> tuple[Buffer, ...]:
        return (self.indptr, self.indices)

    def coordinate(self, pos: Value, x: Value) -> Value:
        return index(self.indices[pos])
