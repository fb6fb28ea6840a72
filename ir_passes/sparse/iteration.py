"""Stage I: iterations over logical coordinates. Nothing in them knows how a tensor is stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ...schedules.compat import ir, tirx
from .axes import INDEX, Axis, Value
from .expr import free_vars
from .format import Format
from .tensor import Tensor
from .text import text

Expr = Any
BLOCK = "|"  # in an order: what follows stands in a block of its own


def coords(names: str) -> Any:
    """Coordinate variables by name: one, or a tuple of several."""
    found = tuple(tirx.Var(name, INDEX) for name in names.split())
    return found[0] if len(found) == 1 else found


@dataclasses.dataclass(eq=False)
class Iteration:
    """out (combine)= value for every entry of `walk` and every point of `free`.

    `coords` are variables for the logical coordinates of `walk`; `free` gives further variables with their extents. `out` is a
    load `tensor[...]`; `combine` a monoid's name, or None for assignment. `order` lists levels and free variables outermost
    first ("|" opens a block); default: levels, then free variables. `depth` walks only the first levels (a statement per
    row). `accumulate` keeps what `out` holds. `begins` starts the elements that it reaches from the identity and leaves the
    others alone: a member of a decomposition that owns its rows. Entries that are not valid count as the identity, unless
    `masked` is False: where the value is 0 there anyway, or a later step masks.
    """

    name: str
    walk: Format | None
    coords: tuple[tirx.Var, ...]
    free: Mapping[tirx.Var, Value]
    out: ir.TensorLoad
    value: Expr
    combine: str | None = None
    order: tuple[str, ...] | None = None
    depth: int | None = None
    accumulate: bool = False
    masked: bool = True
    begins: bool = False

    def axes(self) -> list[Axis | tirx.Var | str]:
        """Levels and free variables in loop order, with BLOCK where a block opens."""
        named: dict[str, Axis | tirx.Var] = {}
        if self.walk:
            named |= {level.name: level for level in self.walk.levels[: self.depth]}
        named |= {str(v.name): v for v in self.free}
        return [name if name == BLOCK else named[name] for name in (self.order or named)]

    def is_reduction(self, axis: Axis | tirx.Var) -> bool:
        """Whether the output does not depend on an axis."""
        spatial: set[Any] = set().union(*(free_vars(i) for i in self.out.indices))
        if not isinstance(axis, Axis):
            return axis not in spatial
        assert self.walk is not None
        at, feeds = self.walk.levels.index(axis), self.walk.feeds()
        # A level that partitions rows is spatial where the output has these rows, which stand below it.
        dims = set().union(*feeds[at:]) if axis.name in self.walk.partition else feeds[at]
        return not any(self.coords[d] in spatial for d in dims)

    def __str__(self) -> str:
        where = f"{self.walk.name}({', '.join(str(c.name) for c in self.coords)})" if self.walk else "dense"
        free = "".join(f", {v.name} in {text(extent)}" for v, extent in self.free.items())
        depth = f" to level {self.depth}" if self.depth is not None else ""
        combine = f"{self.combine}=" if self.combine else "="
        order = f"  order {' '.join(self.order)}" if self.order else ""
        states = (("accumulate", self.accumulate), ("begins", self.begins), ("unmasked", not self.masked))
        flags = "".join(f"  {n}" for n, on in states if on)
        return f"{self.name}: for {where}{depth}{free}: {text(self.out)} {combine} {text(self.value)}{order}{flags}"


@dataclasses.dataclass(eq=False)
class Fused:
    """Iterations over one format that run one after another inside the block of its first `levels` levels."""

    levels: int
    iterations: tuple[Iteration, ...]

    def __str__(self) -> str:
        walk = self.iterations[0].walk
        assert walk is not None
        shared = " ".join(level.name for level in walk.levels[: self.levels])
        return "\n".join([f"fused over {shared}:", *(f"  {it}" for it in self.iterations)])


@dataclasses.dataclass(eq=False)
class Program:
    """Steps over `tensors`. `params` are the arguments in order: tensors, and arrays of formats."""

    name: str
    steps: tuple[Iteration | Fused, ...]
    tensors: tuple[Tensor, ...]
    params: tuple[Tensor | Any, ...]

    def iterations(self) -> list[Iteration]:
        """All iterations in order."""
        return [it for s in self.steps for it in (s.iterations if isinstance(s, Fused) else (s,))]

    def formats(self) -> list[Format]:
        """All formats in order of use."""
        found: list[Format] = []
        for fmt in [*(it.walk for it in self.iterations()), *(t.fmt for t in self.tensors)]:
            if fmt is not None and fmt not in found:
                found.append(fmt)
        return found

    def __str__(self) -> str:
        params = ", ".join(
            str(p.data.name if isinstance(p, Tensor) and p.data is not None else p.name) for p in self.params
        )
        lines = [f"program {self.name}({params})"]
        lines += [indent(str(fmt)) for fmt in self.formats()]
        lines += [f"  tensor {t}" for t in self.tensors]
        lines += [indent(str(step)) for step in self.steps]
        return "\n".join(lines)


def indent(text: str) -> str:
    """Every line two spaces further in."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def default_params(fmts: Sequence[Format], tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """The usual parameters: arrays of the formats, then the tensors."""
    return (*(b for fmt in fmts for b in fmt.aux), *tensors)
