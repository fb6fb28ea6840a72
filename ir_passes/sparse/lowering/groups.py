"""Lowering, step 2: the loop order of an iteration as nested blocks."""

from __future__ import annotations

from ....schedules.compat import tirx
from ..axes import Axis
from ..expr import free_vars
from ..iteration import BLOCK, Iteration
from ..tensor import Tensor
from .search import Searched

Group = list[Axis | tirx.Var]


def groups(it: Iteration, out: Tensor, searched: list[Searched]) -> list[Group]:
    """Axes by block, outermost first. With searches there are at least two groups; the last may be empty.

    A level opens a block when a level above it is bound in the current one and either its extent depends on that level
    (variable), or the output is written at that level's coordinate, which is data (sparse). Inside the new block both are
    constants: bindings stay affine, and schedule primitives such as cache_write keep working. A block opens, too, behind the
    last axis that a search depends on: it is done once for everything inside.
    """
    scatter = it.walk is not None and out.fmt is not it.walk
    wanted = set[Axis | tirx.Var]().union(*(axes_of(it, s) for s in searched))
    nest: list[Group] = [[]] if wanted or not searched else [[], []]
    for axis in it.axes():
        if isinstance(axis, str) and axis == BLOCK:
            nest.append([])
            continue
        if isinstance(axis, Axis) and nest[-1]:
            assert it.walk is not None
            above = it.walk.levels[: it.walk.levels.index(axis)]
            if any(
                up in nest[-1] and (axis.variable or (up.sparse and scatter and not it.is_reduction(up)))
                for up in above
            ):
                nest.append([])
        nest[-1].append(axis)
        if axis in wanted:
            wanted.remove(axis)
            if not wanted:
                nest.append([])
    if searched:
        return [group for group in nest[:-1] if group] + [nest[-1]] if nest[0] else nest
    return [group for group in nest if group] or [[]]


def axes_of(it: Iteration, searched: Searched) -> set[Axis | tirx.Var]:
    """The axes that the coordinates of a search depend on, and all that those stand under."""
    used = set().union(*(free_vars(c) for c in searched.coordinates))
    found: set[Axis | tirx.Var] = {v for v in it.free if v in used}
    if it.walk is not None:
        feeds = it.walk.feeds()
        for n in range(len(it.walk.levels)):
            if any(it.coords[d] in used for d in feeds[n]):
                found |= set(it.walk.levels[: n + 1])
    walked = {a for a in it.axes() if not isinstance(a, str)}
    return found & walked
