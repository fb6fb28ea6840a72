"""Formats: a chain of levels, the map from its points to logical coordinates, and which entries count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ...schedules.compat import tirx
from .axes import INDEX, Axis, Buffer, Point, Value, index
from .expr import free_vars
from .text import text


@dataclasses.dataclass(eq=False)
class Format:
    """How the entries of a sparse operand are stored and walked.

    `coords(*points)` gives the logical coordinates of an entry, `valid(*points)` whether it counts (padding, a partial last
    page); None: all do. `arrays` are further int32 buffers that these two read. In a decomposition, `disjoint` says that no
    other member writes this member's output rows. `partition` names levels that only partition the output rows (groups).
    """

    name: str
    levels: tuple[Axis, ...]
    coords: Callable[..., tuple[Value, ...]]
    valid: Callable[..., Value] | None = None
    arrays: tuple[Buffer, ...] = ()
    disjoint: bool = True
    partition: tuple[str, ...] = ()

    partial = None  # in a `Split`, the level of tiles of which the last one stands at entries that count elsewhere, too

    @property
    def aux(self) -> tuple[Buffer, ...]:
        """All arrays of the format, in parameter order."""
        return tuple(b for level in self.levels for b in level.aux) + tuple(self.arrays)

    @property
    def ndim(self) -> int:
        """Number of logical coordinates."""
        return len(self.coords(*_origin(self.levels)))

    def level(self, name: str) -> Axis:
        """The level called `name`; KeyError where there is none."""
        return {level.name: level for level in self.levels}[name]

    def _merged(self) -> int:
        """Levels up to the last variable one, which are stored as one dimension."""
        return max((n + 1 for n, level in enumerate(self.levels) if level.variable), default=0)

    def storage(self) -> list[Value]:
        """Shape of the values: one dimension for the levels up to the last variable one, then one for each level."""
        merged, size = self._merged(), index(1)
        for level in self.levels[:merged]:
            size = level.size(size)
        return ([size] if merged else []) + [level.extent(index(0)) for level in self.levels[merged:]]

    def position(self, points: Sequence[Point]) -> list[Value]:
        """Indices of the values at these points."""
        merged = self._merged()
        return ([points[merged - 1].pos] if merged else []) + [p.rel for p in points[merged:]]

    def feeds(self) -> list[set[int]]:
        """For each level, the logical dimensions that its points take part in.

        A level that no coordinate names takes part through the positions of the next level that one names: work items through
        the positions of their rows. Where only that level's own number is used, such as a row within a slice, it does not.
        """
        points = symbols(self.levels)
        dims = [free_vars(c) for c in self.coords(*points)]

        def used(variables: set[Value]) -> set[int]:
            return {d for d, vs in enumerate(dims) if vs & variables}

        own = [used({p.rel, p.pos, p.coord}) for p in points]
        placed = [
            used({p.pos, p.coord} if level.sparse else {p.pos}) for level, p in zip(self.levels, points, strict=True)
        ]
        below: set[int] = set()
        for n in reversed(range(len(own))):
            if own[n]:
                below = placed[n]
            else:
                own[n] = below
        return own

    def used_by(self) -> list[tuple[Axis, ...]]:
        """For each logical coordinate, the levels that it is computed from."""
        points = symbols(self.levels)
        dims = [free_vars(c) for c in self.coords(*points)]
        pairs = list(zip(self.levels, points, strict=True))
        return [tuple(level for level, p in pairs if vs & {p.rel, p.pos, p.coord}) for vs in dims]

    def __str__(self) -> str:
        points = symbols(self.levels)
        lines = [f"format {self.name}", *(f"  {level}" for level in self.levels)]
        lines.append(f"  coords ({', '.join(map(text, self.coords(*points)))})")
        if self.valid:
            lines.append(f"  valid {text(self.valid(*points))}")
        if self.partition:
            lines.append(f"  partition {', '.join(self.partition)}")
        if not self.disjoint:
            lines.append("  not disjoint")
        return "\n".join(lines)


def symbols(levels: Sequence[Axis]) -> list[Point]:
    """Points of variables, for looking at what coords and valid do with them: I.rel, I.pos and the coordinate I."""
    return [Point(*(tirx.Var(f"{level.name}{s}", INDEX) for s in (".rel", ".pos", ""))) for level in levels]


def _origin(levels: Sequence[Axis]) -> list[Point]:
    zero = index(0)
    return [Point(zero, zero, zero)] * len(levels)
