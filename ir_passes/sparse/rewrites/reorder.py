"""Reorder: another loop order of one iteration, levels under the level that their extent depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..errors import SparseError
from ..expr import loads
from ..iteration import Fused, Iteration, Program
from ..lowering.check import check_order


def reorder(program: Program, name: str, order: Sequence[str]) -> Program:
    """The program with the levels and free variables of an iteration in this order, outermost first ("|" opens a block).

    The same entries are visited; a floating point sum is added up in another order. SparseError where a level would stand before
    one that its extent depends on, an axis is missing or unknown, or the iteration reads what it writes.
    """

    def change(it: Iteration) -> Iteration:
        if it.name != name:
            return it
        if any(load.source.same_as(it.out.source) for load in loads(it.value)):
            raise SparseError(
                f"{name} reads {it.out.source.name}, which it writes",
                "what it reads depends on the order",
                "write another tensor",
            )
        changed = dataclasses.replace(it, order=tuple(order))
        check_order(changed)
        return changed

    if name not in [it.name for it in program.iterations()]:
        names = ", ".join(it.name for it in program.iterations())
        raise SparseError(f"program {program.name} has no iteration {name}", fix=f"it has {names}")
    steps = [
        dataclasses.replace(step, iterations=tuple(map(change, step.iterations)))
        if isinstance(step, Fused)
        else change(step)
        for step in program.steps
    ]
    return dataclasses.replace(program, steps=tuple(steps))
