"""What rewrites share: finding a step, putting others in its place, and orders over another format."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ....schedules.compat import ir
from ..errors import SparseError
from ..expr import loads
from ..format import Format
from ..iteration import Fused, Iteration, Program
from ..tensor import Tensor

Step = Iteration | Fused


def find(program: Program, name: str) -> Iteration:
    """The step of that name; SparseError where there is none, or where it is part of a fused group."""
    for step in program.steps:
        if isinstance(step, Iteration) and step.name == name:
            return step
    if any(it.name == name for it in program.iterations()):
        raise SparseError(
            f"{name} is part of a fused group of {program.name}",
            "its rows belong to the block that the group shares",
            "rewrite iterations first, and fuse them last",
        )
    names = ", ".join(it.name for it in program.iterations())
    raise SparseError(f"program {program.name} has no iteration {name}", fix=f"it has {names}")


def replace_step(program: Program, old: Step, new: Sequence[Step], **changes: Any) -> Program:
    """The program with a step replaced by others."""
    steps = [s for step in program.steps for s in (new if step is old else (step,))]
    return dataclasses.replace(program, steps=tuple(steps), **changes)


def accesses(it: Iteration) -> list[ir.TensorLoad]:
    """All loads of an iteration, and where it writes."""
    return [it.out, *(load for index in it.out.indices for load in loads(index)), *loads(it.value)]


def users(program: Program, tensor: Tensor) -> list[Iteration]:
    """The iterations that read or write a tensor."""
    return [it for it in program.iterations() if any(load.source.same_as(tensor.logical) for load in accesses(it))]


def order_over(it: Iteration, fmt: Format, gone: Sequence[str]) -> tuple[str, ...] | None:
    """An iteration's order where the levels of another format take the place of the axes `gone`, which must stand together."""
    if it.order is None:
        return None
    at = [n for n, name in enumerate(it.order) if name in gone]
    if at != list(range(at[0], at[0] + len(at))):
        raise SparseError(
            f"{it.name} has other axes between its levels: {' '.join(it.order)}",
            f"the levels of {fmt.name} are others, and nothing says where they belong",
            "rewrite it in its default order, then `reorder` the iterations that come out",
        )
    return (*it.order[: at[0]], *(level.name for level in fmt.levels), *it.order[at[-1] + 1 :])
