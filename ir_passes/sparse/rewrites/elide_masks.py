"""Elide masks: the validity of entries is not computed where it makes no difference.

Two cases. Validity follows from the levels' own ranges (a band as wide as its diagonal, tiles that fit). Or the iteration sums
values that are 0 on padding anyway, because stored values there are 0 and are a factor: ell by the contract of its conversion,
and whatever an earlier masked iteration of the program wrote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from ....schedules.compat import Analyzer, ir
from ...passes import PassLog
from ..axes import index
from ..expr import substitute, vanishes
from ..format import Format, symbols
from ..iteration import Fused, Iteration, Program
from ..lowering.access import on_walk
from ..tensor import Tensor


def elide_masks(program: Program, zero_padded: Collection[str] = (), log: PassLog | None = None) -> Program:
    """The program with masks dropped where that is provably right; `log` is told of every masked iteration and why it stays.

    `zero_padded` names tensors whose stored values are 0 where their format is not valid. The other factors of a sum must be
    finite, as 0 times infinity is not 0.
    """
    log = log if log is not None else PassLog()
    tensors = {t.logical: t for t in program.tensors}
    zero = {t for t in program.tensors if t.name in zero_padded}

    def visit(it: Iteration) -> Iteration:
        reason = _obstacle(it, tensors, zero)
        out = tensors[it.out.source]
        if out.fmt is not None and out.fmt is it.walk:
            _note(it, out, zero)
        if not (it.masked and it.walk and it.walk.valid and it.depth is None):
            return it
        if reason:
            log.missed(it.name, reason)
            return it
        log.matched(it.name)
        return dataclasses.replace(it, masked=False)

    steps = [
        dataclasses.replace(step, iterations=tuple(map(visit, step.iterations)))
        if isinstance(step, Fused)
        else visit(step)
        for step in program.steps
    ]
    return dataclasses.replace(program, steps=tuple(steps))


def _note(it: Iteration, out: Tensor, zero: set[Tensor]) -> None:
    """Keep count of the tensors that are 0 on padding: a masked iteration stores 0 there, or adds nothing."""
    if not it.masked or it.combine not in (None, "sum"):
        zero.discard(out)
    elif not it.accumulate:
        zero.add(out)


def _obstacle(it: Iteration, tensors: Mapping[Any, Tensor], zero: Collection[Tensor]) -> str:
    """Why the mask of an iteration must stay, or nothing."""
    if it.walk is None or always_valid(it.walk):
        return ""
    if it.walk.partial is not None:
        return "the padding of partial tiles stands at entries that count"
    if it.combine is None:
        return "it assigns: padding would write a value"
    if it.combine != "sum":
        return f"the identity of {it.combine} is not 0"

    def stored_zero(load: ir.TensorLoad) -> bool:
        tensor = tensors.get(load.source)
        return tensor is not None and tensor in zero and on_walk(it, tensor, load.indices)

    if not vanishes(it.value, stored_zero):
        return "no factor of the value is known to be 0 on padding"
    return ""


def always_valid(fmt: Format) -> bool:
    """Whether all entries count, by the ranges of the levels alone."""
    if fmt.valid is None:
        return True
    points, analyzer = symbols(fmt.levels), Analyzer()
    size, same_number = index(1), {}
    for n, (level, point) in enumerate(zip(fmt.levels, points, strict=True)):
        size = level.size(size)
        analyzer.bind(point.pos, ir.Range(index(0), size))
        analyzer.bind(point.coord, ir.Range(index(0), index(level.length)))
        if not level.variable:
            analyzer.bind(point.rel, ir.Range(index(0), level.extent(index(0))))
        if not level.sparse:
            same_number[point.rel] = point.coord
            if n == 0 and not level.variable:
                same_number[point.pos] = point.coord
    return bool(analyzer.can_prove(substitute(fmt.valid(*points), same_number)))
