"""Rewalk: another format in place of one, over the same stored values (`split_rows`, `split_level`)."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from ....schedules.compat import Analyzer
from ..errors import SparseError
from ..expr import same
from ..format import Format
from ..iteration import Fused, Iteration, Program
from ..tensor import Tensor
from ..text import text


def rewalk(program: Program, old: Format, new: Format) -> Program:
    """The program in which `new` takes the place of `old`, for all iterations and tensors.

    `new` stores the same values; orders, depths and fused levels follow the level that was split. Its arrays stand where the
    first parameter of `old` stood. SparseError where no iteration or tensor has `old`, or the values are stored differently.
    """
    if old not in program.formats():
        raise SparseError(
            f"program {program.name} does not use the format {old.name}",
            "formats are compared by identity",
            f"it uses {', '.join(fmt.name for fmt in program.formats())}",
        )
    simplify = Analyzer().simplify
    shapes = [[simplify(extent) for extent in fmt.storage()] for fmt in (old, new)]
    if len(shapes[0]) != len(shapes[1]) or not all(map(same, *shapes)) or new.ndim != old.ndim:
        raise SparseError(
            f"{new.name} stores [{', '.join(map(text, shapes[1]))}], {old.name} [{', '.join(map(text, shapes[0]))}]",
            "the values stay where they are",
            "convert the operand, and write the program over the new format",
        )

    def tensor(t: Tensor) -> Tensor:
        if t.fmt is not old:
            return t
        moved = copy.copy(t)
        moved.fmt = new
        return moved

    def iteration(it: Iteration) -> Iteration:
        if it.walk is not old:
            return it
        # The padding of a partial tile stands at entries that count: whatever was known of the mask before, it is needed.
        masked = it.masked or new.partial is not None
        order, depth = _order(it, old, new), _depth(it.depth, old, new)
        return dataclasses.replace(it, walk=new, order=order, depth=depth, masked=masked)

    def step(s: Iteration | Fused) -> Iteration | Fused:
        if isinstance(s, Iteration):
            return iteration(s)
        levels = _depth(s.levels, old, new) if s.iterations[0].walk is old else s.levels
        return Fused(levels or s.levels, tuple(map(iteration, s.iterations)))

    moved = {t: tensor(t) for t in program.tensors}
    return dataclasses.replace(
        program,
        steps=tuple(map(step, program.steps)),
        tensors=tuple(moved.values()),
        params=_params(program, old, new, moved),
    )


def _order(it: Iteration, old: Format, new: Format) -> tuple[str, ...] | None:
    """The order with the new levels where those that are gone stood, or in front of all levels."""
    if it.order is None:
        return None
    before, after = [level.name for level in old.levels], [level.name for level in new.levels]
    gone = [name for name in before if name not in after] or [name for name in it.order if name in before][:1]
    fresh = [name for name in after if name not in before]
    found: list[str] = []
    for name in it.order:
        if name == gone[0]:
            found += fresh
        if name in after or name not in before:
            found.append(name)
    return tuple(found)


def _depth(depth: int | None, old: Format, new: Format) -> int | None:
    """A number of leading levels, with those that took the place of one of them."""
    if depth is None:
        return None
    split = next(n for n, level in enumerate(old.levels) if level not in new.levels)
    return depth if depth <= split else depth + len(new.levels) - len(old.levels)


def _params(program: Program, old: Format, new: Format, moved: dict[Tensor, Tensor]) -> tuple[Any, ...]:
    found: list[Any] = []
    arrays = list(new.aux)
    for param in program.params:
        mine = param.fmt is old if isinstance(param, Tensor) else param in old.aux
        if mine:
            found += arrays
            arrays = []
        if isinstance(param, Tensor):
            found.append(moved[param])
        elif not mine:
            found.append(param)
    return tuple(found)
