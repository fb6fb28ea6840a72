"""Lowering, step 2: the loop order of an iteration as nested blocks."""

from __future__ import annotations

from ....schedules.compat import tirx
from ..axes import Axis
from ..iteration import BLOCK, Iteration
from ..tensor import Tensor

Group = list[Axis | tirx.Var]


def groups(it: Iteration, out: Tensor) -> list[Group]:
    """Axes by block, outermost first.

    A level opens a block when a level above it is bound in the current one and either its extent depends on that level
    (variable), or the output is written at that level's coordinate, which is data (sparse). Inside the new block both are
    constants: bindings stay affine, and schedule primitives such as cache_write keep working.
    """
    scatter = it.walk is not None and out.fmt is not it.walk
    nest: list[Group] = [[]]
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
    return [group for group in nest if group] or [[]]
