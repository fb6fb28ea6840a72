"""Split: a level becomes two, for work tiles. The values stay where they are, so operands need no conversion.

    split_rows:   I of csr            -->  W work items, I under them from bounds     (csr becomes balanced)
    split_level:  J of length n       -->  Jo of n / 32, Ji of 32, valid: Jo * 32 + Ji < n

Both give a format; `rewalk` puts it in place of the old one in a program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ....schedules.compat import Analyzer, T
from ..axes import DenseFixed, DenseVariable, Point, SparseFixed, SparseVariable, Value, index
from ..errors import SparseError
from ..format import Format
from ..text import text

Join = Callable[[Sequence[Point]], list[Point]]


@dataclasses.dataclass(eq=False)
class Split(Format):
    """A format that walks the entries of `base` in tiles and stores them as `base` does; `join` gives the points on its levels.

    `partial` is the number of the outermost level of tiles of which the last one has entries that are not valid, if any.
    """

    base: Format = dataclasses.field(kw_only=True)
    join: Join = dataclasses.field(kw_only=True)
    partial: int | None = dataclasses.field(kw_only=True, default=None)  # type: ignore[assignment]

    def storage(self) -> list[Value]:
        """Shape of the values: that of the base."""
        return self.base.storage()

    def position(self, points: Sequence[Point]) -> list[Value]:
        """Indices of the values: those of the base."""
        return self.base.position(self.join(points))


def split_rows(fmt: Format, items: Value, name: str, level: str = "W") -> Format:
    """The first level dealt to `items` work items, item w taking positions bounds[w] to bounds[w + 1] (int32 [items + 1]).

    `formats.work.item_rows` computes bounds of about equal cost. The new array comes first among those of the format.
    """
    rows = fmt.levels[0]
    dealt: DenseVariable
    if isinstance(rows, DenseFixed):
        dealt = DenseVariable(rows.name, rows.length, rows.length, items, f"{name}_")
    elif isinstance(rows, SparseFixed):
        dealt = SparseVariable(rows.name, rows.length, rows.entries, items, f"{name}_", rows.ordered)
        dealt.indices = rows.indices
    else:
        raise SparseError(
            f"the first level of {fmt.name}, {rows.name}, is {rows.kind}",
            "work items take runs of its positions, and it has bounds already",
            "deal out a format whose first level has a fixed number of entries",
        )

    def join(points: Sequence[Point]) -> list[Point]:
        pos = points[1].pos
        return [Point(pos, pos, rows.coordinate(pos, pos)), *points[2:]]

    partial = None if fmt.partial is None else fmt.partial + 1
    return _split(fmt, name, (DenseFixed(level, items), dealt, *fmt.levels[1:]), join, partial=partial)


def split_level(fmt: Format, name: str, factor: int) -> Format:
    """The dense level `name` as `<name>o` of tiles and `<name>i` of `factor` entries, the last tile valid as far as it goes.

    SparseError for a level whose entries are data, and for a partial tile above levels that read arrays: those would be read
    outside.
    """
    names = [level.name for level in fmt.levels]
    if name not in names:
        raise SparseError(f"format {fmt.name} has no level {name}", fix=f"it has {', '.join(names)}")
    at = names.index(name)
    level, below = fmt.levels[at], fmt.levels[at + 1 :]
    if not isinstance(level, DenseFixed):
        raise SparseError(
            f"level {name} of {fmt.name} is {level.kind}",
            "tiles of a fixed size are cut from coordinates 0 to length",
            "split a dense fixed level, or deal out rows with `split_rows`",
        )
    if factor < 1:
        raise SparseError(f"level {name} is split into tiles of {factor}", fix="give a size of at least 1")
    length, whole = index(level.length), Analyzer().can_prove(index(level.length) % factor == 0)
    if not whole and (reads := [b.name for b in below if b.variable or b.sparse]):
        raise SparseError(
            f"level {name} of {fmt.name} has length {text(level.length)}, not provably a multiple of {factor}",
            f"the last tile would read arrays of {reads[0]} where there are none",
            "use a length that is a multiple (blocks * size), or deal out rows with `split_rows`",
        )
    tiles = level.length // factor if whole else (level.length + factor - 1) // factor

    def join(points: Sequence[Point]) -> list[Point]:
        outer, inner = points[at : at + 2]
        if whole:
            x = outer.rel * factor + inner.rel
            pos = inner.pos
            return [*points[:at], Point(x, pos, x), *points[at + 2 :]]
        # In range where it is masked, too. The levels below are dense: their positions follow.
        x = T.min(outer.rel * factor + inner.rel, length - 1)
        found = [*points[:at], Point(x, level.position(points[at - 1].pos, x) if at else x, x)]
        for under, point in zip(below, points[at + 2 :], strict=True):
            found.append(Point(point.rel, under.position(found[-1].pos, point.rel), point.coord))
        return found

    def inside(points: Sequence[Point]) -> Value:
        return points[at].rel * factor + points[at + 1].rel < length

    tiled = (DenseFixed(f"{name}o", tiles), DenseFixed(f"{name}i", factor))
    levels = (*fmt.levels[:at], *tiled, *below)
    partial = [n + (n > at) for n in (fmt.partial, None if whole else at) if n is not None]
    return _split(
        fmt, f"{fmt.name}_{name}{factor}", levels, join, None if whole else inside, min(partial, default=None)
    )


def _split(
    fmt: Format,
    name: str,
    levels: tuple[Any, ...],
    join: Join,
    inside: Callable[[Sequence[Point]], Value] | None = None,
    partial: int | None = None,
) -> Format:
    def valid(*points: Point) -> Value:
        rules = [fmt.valid(*join(points))] if fmt.valid else []
        rules += [inside(points)] if inside else []
        return rules[0] if len(rules) == 1 else T.And(*rules)

    return Split(
        name,
        levels,
        lambda *points: fmt.coords(*join(points)),
        valid if fmt.valid or inside else None,
        fmt.arrays,
        fmt.disjoint,
        fmt.partition,
        base=fmt,
        join=join,
        partial=partial,
    )
