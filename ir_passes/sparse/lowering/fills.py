"""Lowering, step 1: outputs that an iteration does not cover are set to the identity first.

A reduction whose block runs once per output element initialises it there. Where the walk writes rows at sparse coordinates (some
rows may not be there), or a reduction level encloses spatial ones, the output gets an iteration of its own that fills it, and
the reduction accumulates.
"""

from __future__ import annotations

import dataclasses

from ..expr import free_vars
from ..iteration import Fused, Iteration, Program, coords
from ..monoid import monoid
from ..tensor import Tensor
from .groups import groups


def add_fills(program: Program) -> Program:
    """The program with fills in front of the first iteration that needs one, for each output."""
    tensors = {t.logical: t for t in program.tensors}
    filled: set[object] = set()
    steps: list[Iteration | Fused] = []
    for step in program.steps:
        if isinstance(step, Fused):
            steps.append(step)
            filled |= {it.out.source for it in step.iterations}
            continue
        tensor = tensors[step.out.source]
        if step.combine and not step.accumulate and needs_fill(step, tensor):
            if tensor.logical not in filled:
                steps.append(fill(step, tensor))
            step = dataclasses.replace(step, accumulate=True)
        filled.add(tensor.logical)
        steps.append(step)
    return dataclasses.replace(program, steps=tuple(steps))


def needs_fill(it: Iteration, tensor: Tensor) -> bool:
    """Whether some output element may be reached never, or in several runs of the iteration's block."""
    nest = groups(it, tensor)
    outer_reduction = any(it.is_reduction(a) for group in nest[:-1] for a in group)
    return outer_reduction or (tensor.fmt is not it.walk and not covers(it))


def covers(it: Iteration) -> bool:
    """Whether the levels that the output depends on are all dense, so that every row is reached exactly once."""
    if it.walk is None:
        return True
    used: set[object] = set().union(*(free_vars(i) for i in it.out.indices))
    feeds = it.walk.feeds()
    for level, dims in zip(it.walk.levels, feeds, strict=True):
        if level.sparse and any(it.coords[d] in used for d in dims):
            return False
    return True


def fill(it: Iteration, tensor: Tensor) -> Iteration:
    """out = identity over all of the output, entry by entry."""
    assert it.combine is not None
    identity = monoid(it.combine).identity(tensor.dtype)
    names = " ".join(f"z{n}" for n in range(len(tensor.shape)))
    points = coords(names)
    points = points if isinstance(points, tuple) else (points,)
    ndim = tensor.fmt.ndim if tensor.fmt else 0
    return Iteration(
        f"{it.name}_fill",
        tensor.fmt,
        points[:ndim],
        dict(zip(points[ndim:], tensor.shape[ndim:], strict=True)),
        tensor[points],
        identity,
        masked=False,
    )
