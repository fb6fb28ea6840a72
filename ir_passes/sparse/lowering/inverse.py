"""Formats backwards: where on each level the entry of given logical coordinates stands, for formats that can be searched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ....schedules.compat import Analyzer, T, ir, tirx
from ..axes import Value, index
from ..errors import SparseError
from ..expr import free_vars, same
from ..format import Format, symbols
from ..text import text

SEARCHABLE = "walk this format, or store the operand in one whose levels are coordinates (csr, csc, dcsr, bsr, dense)"


@dataclasses.dataclass(frozen=True)
class Place:
    """A level's coordinate from a logical one (a quotient or remainder by `size`, or itself); or its position; or neither."""

    dim: int = -1
    convert: Callable[[Value, Value], Value] | None = None
    size: Value = None
    by_position: bool = False

    @property
    def skipped(self) -> bool:
        """A level that the search passes by: one further down is found by its position."""
        return self.dim < 0

    def of(self, coordinates: Sequence[Value]) -> Value:
        """The coordinate or position."""
        coordinate = coordinates[self.dim]
        return self.convert(coordinate, self.size) if self.convert else coordinate


def inverse(fmt: Format) -> list[Place]:
    """Places of all levels; SparseError where the logical coordinates do not tell them, or a level is not in order.

    A coordinate may be a level's own, its position (balanced csr), or `outer * length + inner` (blocks). Every level above one
    that is found by its position is passed by, so that none of them may be a coordinate itself.
    """
    at = symbols(fmt.levels)
    names = {v: (n, v is p.pos) for n, p in enumerate(at) for v in (p.pos, p.coord)}
    names |= {p.rel: (n, False) for n, (p, level) in enumerate(zip(at, fmt.levels, strict=True)) if not level.sparse}
    places: dict[int, Place] = {}
    for dim, expr in enumerate(fmt.coords(*at)):
        expr = Analyzer().simplify(index(expr))
        here: dict[int, Place] = {}
        if isinstance(expr, ir.Var) and expr in names:
            number, by_position = names[expr]
            here[number] = Place(dim, by_position=by_position)
        elif (split := _block(expr, names, fmt)) is not None:
            outer, inner, size = split
            here = {outer: Place(dim, T.floordiv, size), inner: Place(dim, T.floormod, size)}
        if not here or not here.keys().isdisjoint(places):
            raise SparseError(
                f"format {fmt.name} cannot be searched: its coordinate {dim} is {text(expr)}",
                "each coordinate must tell levels of its own: by their coordinate, by their position, or as a block's",
                SEARCHABLE,
            )
        places |= here
    known = max((n for n, place in places.items() if place.by_position), default=0)
    if both := [fmt.levels[n].name for n in places if n < known]:
        raise SparseError(
            f"format {fmt.name} cannot be searched: level {fmt.levels[known].name} is found by its position, and {both[0]} "
            "above it is a coordinate, too",
            "a position decides all levels above it, which the search passes by",
            SEARCHABLE,
        )
    _told(fmt, known)
    found = [Place() if n < known else places.get(n) for n in range(len(fmt.levels))]
    for level, place in zip(fmt.levels, found, strict=True):
        if place is None:
            raise SparseError(
                f"format {fmt.name} cannot be searched: its coordinates do not tell where on level {level.name} an entry is",
                "a tensor that is read off the walk is searched level by level",
                SEARCHABLE,
            )
        if level.sparse and not level.ordered and not place.skipped:
            raise SparseError(
                f"format {fmt.name} cannot be searched: its level {level.name} is not in order",
                "a search bisects ascending coordinates of which none stands twice; padding and repeated rows break that",
                "walk this format, or store the operand in an ordered one (csr, csc, dcsr, bsr, dense)",
            )
    return [place for place in found if place is not None]


def _told(fmt: Format, known: int) -> None:
    """SparseError where validity or the place of a value needs more of the levels up to `known` than the position there."""
    at = symbols(fmt.levels)
    untold = {v for p in at[:known] for v in (p.rel, p.pos, p.coord)} | (
        {at[known].rel, at[known].coord} if known else set()
    )
    needed = [*fmt.position(at), *([fmt.valid(*at)] if fmt.valid else [])]
    if any(free_vars(e) & untold for e in needed):
        raise SparseError(
            f"format {fmt.name} cannot be searched: level {fmt.levels[known].name} is found by its position, which does not tell "
            "where the levels above it stand",
            "the place of a value, or whether it counts, depends on those",
            SEARCHABLE,
        )


def _block(expr: Value, names: dict[Any, tuple[int, bool]], fmt: Format) -> tuple[int, int, Value] | None:
    """`outer * length + inner` with an inner dense level of that length, as (outer level, inner level, length)."""
    if not isinstance(expr, tirx.Add) or not isinstance(expr.a, tirx.Mul):
        return None
    outer, size, inner = expr.a.a, expr.a.b, expr.b
    if outer not in names or inner not in names or any(names[v][1] for v in (outer, inner)):
        return None
    level = fmt.levels[names[inner][0]]
    if level.sparse or level.variable or not same(index(level.length), size):
        return None
    return names[outer][0], names[inner][0], size
