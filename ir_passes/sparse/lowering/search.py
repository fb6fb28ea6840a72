"""Lowering, step 3: entries off the walk are searched.

A tensor that is read where the walk does not stand is searched level by level: dense levels are computed, sparse ones bisected
among the ascending indices under their parent. The search is a block of its own in front of the iteration's innermost block. It
leaves the entry's position on every sparse level in an array, -1 where nothing is stored; the access then reads the entry or
takes the tensor's `miss` value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ....schedules.compat import IRBuilder, T, tirx
from ..axes import INDEX, Axis, Buffer, Point, Value, index
from ..expr import same
from ..format import Format
from ..iteration import Iteration
from ..tensor import Tensor
from .access import on_walk
from .inverse import Place, inverse


@dataclasses.dataclass(eq=False)
class Searched:
    """One entry to search: a tensor, and the logical coordinates as they stand in the iteration."""

    tensor: Tensor
    coordinates: tuple[Value, ...]

    @property
    def fmt(self) -> Format:
        """The format that is searched."""
        assert self.tensor.fmt is not None
        return self.tensor.fmt

    @property
    def bisects(self) -> bool:
        """Whether the search needs statements: some level of the format is sparse."""
        return any(level.sparse for level in self.fmt.levels)

    def is_for(self, tensor: Tensor, coordinates: Sequence[Value]) -> bool:
        """Whether an access means this entry."""
        pairs = zip(self.coordinates, coordinates, strict=True)
        return tensor is self.tensor and all(same(a, b) for a, b in pairs)


def searches(it: Iteration, tensors: dict[Any, Tensor], loads: Sequence[Any]) -> list[Searched]:
    """The entries that an iteration's loads read off its walk, each once."""
    found: list[Searched] = []
    for load in loads:
        tensor = tensors.get(load.source)
        if tensor is None or tensor.fmt is None or on_walk(it, tensor, load.indices):
            continue
        coordinates = tuple(load.indices[: tensor.fmt.ndim])
        if not any(s.is_for(tensor, coordinates) for s in found):
            found.append(Searched(tensor, coordinates))
    return found


@dataclasses.dataclass(frozen=True)
class Entry:
    """A searched entry: where it is on each level, and whether it is there."""

    at: list[Point]
    stored: Value

    def read(self, tensor: Tensor, tail: Sequence[Value]) -> Value:
        """The value of the entry, or the value of what is not stored."""
        assert tensor.fmt is not None
        assert tensor.data is not None
        value = tensor.data[(*tensor.fmt.position(self.at), *tail)]
        return T.if_then_else(self.stored, value, tirx.const(tensor.missing, tensor.dtype))


def emit_search(name: str, fmt: Format, coordinates: Sequence[Value]) -> Entry:
    """Emit the block that searches, if one is needed; the array of positions belongs to the block around it."""
    places = inverse(fmt)
    found: Buffer | None = None
    if any(level.sparse for level in fmt.levels):
        count = sum(level.sparse for level in fmt.levels)
        found = T.sblock_alloc_buffer((count,), INDEX, scope="local")
        IRBuilder.name(name, found)
        with T.sblock(name):
            low, high = (T.sblock_alloc_buffer((1,), INDEX, scope="local") for _ in range(2))
            IRBuilder.name(f"{name}_low", low)
            IRBuilder.name(f"{name}_high", high)
            whole = [region(b) for level in fmt.levels for b in level.aux]
            T.reads(*whole)
            T.writes(region(found))
            _descend(fmt, places, coordinates, found, (low, high))
    return _descend(fmt, places, coordinates, found, None)


def region(buffer: Buffer) -> Any:
    """All of a buffer, as a block's declaration wants it."""
    return buffer[tuple(slice(0, extent) for extent in buffer.ty.shape)]


def _descend(
    fmt: Format,
    places: Sequence[Place],
    coordinates: Sequence[Value],
    found: Buffer | None,
    registers: tuple[Buffer, Buffer] | None,
) -> Entry:
    """Go down the levels; with `registers`, emit the bisections that fill `found`, otherwise read what they left there."""
    stored: Value = tirx.const(True, "bool")
    at: list[Point] = []
    parent, size, sparse = index(0), index(1), 0
    for n, (level, place) in enumerate(zip(fmt.levels, places, strict=True)):
        size = level.size(size)
        if place.skipped:
            at.append(Point(index(0), index(0), index(0)))
            continue
        want = place.of(coordinates)
        if level.sparse:
            assert found is not None
            if registers:
                _bisect(level, n == 0, parent, stored, want, registers, found, sparse)
            pos = found[index(sparse)]
            stored, sparse = pos >= 0, sparse + 1
            rel = pos - _begin(level, n == 0, parent)
        else:
            extent = size if place.by_position else _guarded(stored, level.extent(parent))
            inside = T.And(want >= 0, want < extent)
            stored = T.And(stored, inside) if n else inside
            rel = want
            first = n == 0 and not level.variable
            pos = want if first or place.by_position else level.position(parent, want)
        at.append(Point(rel, pos, want))
        parent = pos
    if fmt.valid is not None and not registers:
        stored = T.if_then_else(stored, fmt.valid(*at), tirx.const(False, "bool"))
    return Entry(at, stored)


def _begin(level: Axis, first: bool, parent: Value) -> Value:
    return index(0) if first and not level.variable else level.position(parent, index(0))


def _guarded(stored: Value, value: Value) -> Value:
    """A value that is read through a parent, 0 where there is none."""
    return (
        value
        if isinstance(value, tirx.IntImm) or isinstance(stored, tirx.IntImm)
        else T.if_then_else(stored, value, index(0))
    )


def _bisect(
    level: Axis, first: bool, parent: Value, stored: Value, want: Value, registers: Any, found: Buffer, slot: int
) -> None:
    """found[slot] = the position under the parent whose index is the wanted coordinate, or -1."""
    zero, indices = index(0), level.aux[-1]
    (low, high), begin = registers, _begin(level, first, parent)
    T.buffer_store(low, _guarded(stored, begin), [zero])
    T.buffer_store(high, _guarded(stored, begin + level.extent(parent)), [zero])
    middle = T.truncdiv(low[zero] + high[zero], index(2))
    with T.While(low[zero] < high[zero]), T.If(index(indices[middle]) < want):
        with T.Then():
            T.buffer_store(low, middle + 1, [zero])
        with T.Else():
            T.buffer_store(high, middle, [zero])
    end = _guarded(stored, begin + level.extent(parent))
    here = T.if_then_else(index(indices[low[zero]]) == want, low[zero], index(-1))
    T.buffer_store(found, T.if_then_else(low[zero] < end, here, index(-1)), [index(slot)])
