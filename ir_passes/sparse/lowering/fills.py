"""Lowering, step 2: outputs that an iteration does not begin by itself are set to the identity first.

A reduction whose innermost block holds all reduced axes initialises its output there. Where a reduced axis stands in an outer
block, or elements may be reached never or several times (`coverage`), the output gets an iteration of its own that fills it, and
the reduction accumulates. Fills of row-local tensors stand inside the fused group, all others in front of their step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import SparseError
from ..expr import loads
from ..iteration import Fused, Iteration, Program, coords
from ..monoid import monoid
from ..tensor import Tensor
from .coverage import reach
from .groups import groups
from .search import searches


def add_fills(program: Program) -> Program:
    """The program with a fill in front of every iteration that needs one."""
    tensors = {t.logical: t for t in program.tensors}
    steps: list[Iteration | Fused] = []
    for step in program.steps:
        if isinstance(step, Fused):
            steps += _fill_fused(step, tensors)
        elif needs_fill(step, tensors):
            steps += [fill(step, tensors[step.out.source]), dataclasses.replace(step, accumulate=True)]
        else:
            steps.append(step)
    return dataclasses.replace(program, steps=tuple(steps))


def needs_fill(it: Iteration, tensors: Mapping[Any, Tensor], shared: int = 0) -> bool:
    """Whether an iteration inside `shared` levels cannot begin its output by itself."""
    if not it.combine or it.accumulate:
        return False
    out = tensors[it.out.source]
    bisected = [s for s in searches(it, dict(tensors), loads(it.value)) if s.bisects]
    outside = set(it.walk.levels[:shared]) if it.walk else set()
    outer = any(it.is_reduction(a) for group in groups(it, out, bisected)[:-1] for a in group if a not in outside)
    return outer or not reach(it, out).covers


def _fill_fused(step: Fused, tensors: Mapping[Any, Tensor]) -> list[Iteration | Fused]:
    before: list[Iteration | Fused] = []
    inside: list[Iteration] = []
    for it in step.iterations:
        if not needs_fill(it, tensors, step.levels):
            inside.append(it)
            continue
        out = tensors[it.out.source]
        if out.row_local:
            inside.append(_fill_local(it, out, step.levels))
        else:
            if sum(other.out.source is it.out.source for other in step.iterations) > 1:
                raise SparseError(
                    f"{it.name} and another iteration of its fused group write {out.name}, which has to be filled first",
                    "the fill stands in front of the group and would not come between them",
                    "write different tensors, or accumulate into what the first one left (accumulate=True)",
                )
            before.append(fill(it, out))
        inside.append(dataclasses.replace(it, accumulate=True))
    return [*before, dataclasses.replace(step, iterations=tuple(inside))]


def fill(it: Iteration, tensor: Tensor) -> Iteration:
    """out = identity over all of the output, entry by entry."""
    at = _variables(len(tensor.shape))
    ndim = tensor.fmt.ndim if tensor.fmt else 0
    free = dict(zip(at[ndim:], tensor.shape[ndim:], strict=True))
    return Iteration(f"{it.name}_fill", tensor.fmt, at[:ndim], free, tensor[at], _identity(it, tensor), masked=False)


def _fill_local(it: Iteration, tensor: Tensor, shared: int) -> Iteration:
    """out = identity over a row-local tensor, inside the block of the shared levels."""
    assert it.walk is not None
    ndim = tensor.fmt.ndim if tensor.fmt else 0
    tail = _variables(len(tensor.shape) - ndim)
    free = dict(zip(tail, tensor.shape[ndim:], strict=True))
    out = tensor[(*it.coords[:ndim], *tail)]
    levels = it.walk.levels if tensor.fmt else it.walk.levels[:shared]
    order = (*(level.name for level in levels), *(str(v.name) for v in tail))
    depth = None if tensor.fmt else shared
    return dataclasses.replace(
        it,
        name=f"{it.name}_fill",
        free=free,
        out=out,
        value=_identity(it, tensor),
        combine=None,
        order=order,
        depth=depth,
        masked=False,
    )


def _variables(count: int) -> tuple[Any, ...]:
    found = coords(" ".join(f"z{n}" for n in range(count))) if count else ()
    return found if isinstance(found, tuple) else (found,)


def _identity(it: Iteration, tensor: Tensor) -> Any:
    assert it.combine is not None
    return monoid(it.combine).identity(tensor.dtype)
