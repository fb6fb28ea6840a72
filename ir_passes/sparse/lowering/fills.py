"""Lowering, step 2: outputs that an iteration does not begin by itself are set to the identity first.

A reduction whose innermost block holds all reduced axes initialises its output there. Where a reduced axis stands in an outer
block, or elements may be reached never or several times (`coverage`), the output gets an iteration of its own that fills it, and
the reduction accumulates. Fills of row-local tensors stand inside the fused group, all others in front of their step.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..errors import SparseError
from ..expr import loads
from ..iteration import BLOCK, Fused, Iteration, Program, coords
from ..monoid import monoid
from ..tensor import Tensor
from .coverage import reach
from .groups import groups
from .search import searches


def add_fills(program: Program) -> Program:
    """The program with a fill in front of every iteration that needs one."""
    tensors = {t.logical: t for t in program.tensors}
    writers = Counter(it.out.source for it in program.iterations())
    steps: list[Iteration | Fused] = []
    for step in program.steps:
        if isinstance(step, Fused):
            steps += _fill_fused(step, tensors)
            continue
        alone: Iteration | None = step
        if writers[step.out.source] > 1 and step.combine and not step.accumulate:
            alone = _in_own_block(step, tensors)
        if alone is None or needs_fill(alone, tensors):
            whole = dataclasses.replace(step, accumulate=True, begins=False)
            steps += [whole] if step.begins else [fill(step, tensors[step.out.source]), whole]
        else:
            steps.append(alone)
    return dataclasses.replace(program, steps=tuple(steps))


def needs_fill(it: Iteration, tensors: Mapping[Any, Tensor], shared: int = 0) -> bool:
    """Whether an iteration inside `shared` levels cannot begin its output by itself."""
    if not it.combine or it.accumulate or it.begins:
        return False
    return _reduces_outside(it, tensors, shared) or not reach(it, tensors[it.out.source]).covers


def _in_own_block(it: Iteration, tensors: Mapping[Any, Tensor]) -> Iteration | None:
    """The iteration with its reduction in a block below a spatial axis, or None where no spatial axis leads.

    An output that several iterations write can be initialised there only: decompose_reduction wants one writer in the scope.
    """
    if len(groups(it, tensors[it.out.source], [])) > 1 or not any(it.is_reduction(a) for a in it.axes() if a != BLOCK):
        return it
    axes = [a for a in it.axes() if not isinstance(a, str)]
    lead = next(n for n, a in enumerate(axes) if it.is_reduction(a))
    names = tuple(str(a.name) for a in axes)
    return dataclasses.replace(it, order=(*names[:lead], BLOCK, *names[lead:])) if lead else None


def can_begin(it: Iteration, tensors: Mapping[Any, Tensor]) -> bool:
    """Whether every element that an iteration reaches has its own run of the innermost block: `begins` is possible."""
    return not _reduces_outside(it, tensors, 0) and not reach(it, tensors[it.out.source]).returning


def _reduces_outside(it: Iteration, tensors: Mapping[Any, Tensor], shared: int) -> bool:
    """Whether a reduced axis stands in a block around the innermost one; row-local outputs begin anew in the shared levels."""
    out = tensors[it.out.source]
    bisected = [s for s in searches(it, dict(tensors), loads(it.value)) if s.bisects]
    rows = set(it.walk.levels[:shared]) if it.walk else set()
    around = {a for group in groups(it, out, bisected)[:-1] for a in group} | rows
    return any(it.is_reduction(a) for a in around - (rows if out.row_local else set()))


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
            if sum(other.out.source.same_as(it.out.source) for other in step.iterations) > 1:
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
