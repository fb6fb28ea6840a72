"""Lowering: logical coordinates become positions, for accesses that stand where the walk stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..axes import Point, Value, index
from ..expr import same
from ..format import Format
from ..iteration import Iteration
from ..tensor import Tensor


def points(walk: Format, env: Mapping[Any, Value], upto: int | None = None) -> list[Point]:
    """Where the walk stands on each level, given the block variables of the axes; levels that are not walked are at 0."""
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
