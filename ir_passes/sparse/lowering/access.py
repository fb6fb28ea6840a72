"""Lowering, step 3: logical coordinates become positions.

On the walk an access is the position where the walk stands. Off it, the entry is searched: dense levels are computed, a sparse
level is searched by bisection among its parent's ascending indices, and what is not there has the tensor's `miss` value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ....schedules.compat import T, tirx
from ..axes import INDEX, Axis, Buffer, Point, Value, index
from ..errors import SparseError
from ..expr import free_vars, same
from ..format import Format, symbols
from ..iteration import Iteration
from ..tensor import Tensor

BISECTIONS = 32  # enough for any int32 number of entries


def points(walk: Format, env: Mapping[Any, Value], upto: int | None = None) -> list[Point]:
    """Where the walk stands on each level, given the block variables of the axes; levels below the walk's depth are at 0."""
    found: list[Point] = []
    parent: Value = index(0)
    for level in walk.levels[:upto]:
        if level not in env:
            found.append(Point(index(0), index(0), index(0)))
            continue
        x = env[level]
        pos = x if not found and not level.variable else level.position(parent, x)
        found.append(Point(x, pos, level.coordinate(pos, x)))
        parent = pos
    return found


def on_walk(it: Iteration, tensor: Tensor, indices: Sequence[Any]) -> bool:
    """Whether an access stands where the walk stands: the same format at the walk's own coordinates."""
    if tensor.fmt is None or tensor.fmt is not it.walk:
        return False
    return all(same(a, b) for a, b in zip(indices[: tensor.fmt.ndim], it.coords, strict=True))


def row_local_index(fmt: Format, at: Sequence[Point], shared: int) -> Value:
    """Number of an entry within its row block, for tensors that live inside it."""
    rel: Value = index(0)
    for level, point in list(zip(fmt.levels, at, strict=True))[shared:]:
        rel = point.rel if level.variable else rel * level.extent(0) + point.rel
    return rel


def searchable(fmt: Format) -> bool:
    """Whether every level's coordinate is one logical coordinate, in order: what a search needs."""
    at = symbols(fmt.levels)
    found = fmt.coords(*at)
    return len(found) == len(at) and all(c is p.coord or same(c, p.coord) for c, p in zip(found, at, strict=True))


class Search:
    """The search for entries off the walk: emits the bisections of one block, and gives loads guarded by their success."""

    def __init__(self, allocate: Callable[[str], Buffer]) -> None:
        self.allocate, self.count = allocate, 0

    def load(self, tensor: Tensor, coordinates: Sequence[Value], tail: Sequence[Value]) -> Value:
        """The value at logical coordinates, `miss` where nothing is stored. Emits statements before the current one."""
        fmt = tensor.fmt
        assert fmt is not None
        assert tensor.data is not None
        if not searchable(fmt):
            raise SparseError(
                f"{tensor.name} is read off the walk, and its format {fmt.name} cannot be searched",
                "a search goes level by level, but the coordinates are computed from several levels",
                "walk this format, or store the operand in one whose levels are coordinates (csr, csc, dcsr, dense)",
            )
        found: Value = tirx.const(True, "bool")
        at: list[Point] = []
        parent: Value = index(0)
        for level, coordinate in zip(fmt.levels, coordinates, strict=True):
            if level.sparse:
                pos = self._bisect(level, parent, coordinate, first=not at)
                end = self._end(level, parent, first=not at)
                begin = self._begin(level, parent, first=not at)
                inside = T.And(found, pos < end)
                stored = T.if_then_else(inside, index(level.indices[pos]), index(-1))  # type: ignore[attr-defined]
                found = T.And(inside, stored == coordinate)
                rel = pos - begin
            else:
                extent = level.extent(parent)
                found = T.And(found, T.And(coordinate >= 0, coordinate < extent))
                rel = coordinate
                pos = coordinate if not at and not level.variable else level.position(parent, coordinate)
            at.append(Point(rel, pos, coordinate))
            parent = pos
        value = tensor.data[(*fmt.position(at), *tail)]
        return T.if_then_else(found, value, tirx.const(tensor.miss, tensor.dtype))

    def _begin(self, level: Axis, parent: Value, first: bool) -> Value:
        return index(0) if first and not level.variable else level.position(parent, index(0))

    def _end(self, level: Axis, parent: Value, first: bool) -> Value:
        return self._begin(level, parent, first) + level.extent(parent)

    def _bisect(self, level: Axis, parent: Value, coordinate: Value, first: bool) -> Value:
        """The first position whose coordinate is not below the wanted one."""
        lo, hi = self.allocate(f"lo{self.count}"), self.allocate(f"hi{self.count}")
        self.count += 1
        zero = index(0)
        T.buffer_store(lo, self._begin(level, parent, first), [zero])
        T.buffer_store(hi, self._end(level, parent, first), [zero])
        with T.serial(BISECTIONS), T.If(lo[zero] < hi[zero]), T.Then():
            middle = T.truncdiv(lo[zero] + hi[zero], index(2))
            below = index(level.indices[middle]) < coordinate  # type: ignore[attr-defined]
            held = self.allocate(f"mid{self.count}")
            self.count += 1
            T.buffer_store(held, T.cast(below, INDEX) + middle * 2, [zero])
            with T.If(T.truncmod(held[zero], index(2)) == 1):
                with T.Then():
                    T.buffer_store(lo, T.truncdiv(held[zero], index(2)) + 1, [zero])
                with T.Else():
                    T.buffer_store(hi, T.truncdiv(held[zero], index(2)), [zero])
        return lo[zero]


def determined(it: Iteration) -> bool:
    """Whether the walk and the free variables determine every index of the output."""
    known: set[Any] = {*it.coords, *it.free}
    used: set[Any] = set().union(*(free_vars(i) for i in it.out.indices))
    return all(v in known for v in used if isinstance(v, tirx.Var))
