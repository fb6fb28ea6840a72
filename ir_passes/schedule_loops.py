"""Schedules for the loops that TVM's legalization and fusion leave: what no kernel of ours computes.

Element-wise blocks are inlined into their consumers. Of every other block the outer data-parallel loops become one parallel loop.
Reductions run inside of these and outside of the innermost data-parallel loop, which LLVM vectorizes, where that loop is long
enough; they get an initialisation of their own, so that an empty reduction gives the operator's identity.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from ..schedules.compat import ir, s_tir, tirx
from .passes import PassLog
from .straightline import name_of

SCHEDULED = "tirx.is_scheduled"
LANES = 8  # a data-parallel loop this long is worth vectorizing
Schedule = Any
Block = Any


@dataclasses.dataclass(frozen=True)
class ScheduleLoops:
    """Schedule every PrimFunc that is not marked as scheduled; kernels are."""

    name: str = "schedule_loops"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        out = ir.IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for gv, func in mod.functions.items():
            if isinstance(func, tirx.PrimFunc) and not (func.attrs and SCHEDULED in func.attrs):
                log.function = name_of(gv)
                out.update_func(out.get_global_var(log.function), scheduled(func, log).with_attr(SCHEDULED, True))
        return out


def scheduled(func: tirx.PrimFunc, log: PassLog) -> tirx.PrimFunc:
    """The function with parallel loops; blocks that refuse are left as they are, with the reason in the log."""
    schedule = s_tir.Schedule(func)
    try:
        root = schedule.get_sblock("root")
    except s_tir.ScheduleError:  # TVM's own kernels of scans and sorts
        log.missed(log.function, "it is written as loops, not as blocks")
        return func
    for block in schedule.get_child_blocks(root):
        _inline(schedule, block)
    for block in schedule.get_child_blocks(root):
        name = str(schedule.get(block).name_hint)
        try:
            reason = _spread(schedule, block)
        except s_tir.ScheduleError as error:
            reason = str(error).strip().splitlines()[-1]
        if reason:
            log.missed(name, reason)
        else:
            log.matched(name)
    return schedule.mod["main"]


def _inline(schedule: Schedule, block: Block) -> None:
    """Inline a block whose elements depend on its own inputs alone; reductions and results of the function stay."""
    with contextlib.suppress(s_tir.ScheduleError):
        schedule.compute_inline(block)


def _spread(schedule: Schedule, block: Block) -> str:
    """Order the loops of one block and distribute them; why not, where they stay as they are."""
    loops, iters = schedule.get_loops(block), schedule.get(block).iter_vars
    if len(loops) != len(iters) or not loops:
        return "it has no loop for each of its dimensions"
    spatial = [loop for loop, it in zip(loops, iters, strict=True) if it.iter_type == tirx.IterVar.DataPar]
    reduced = [loop for loop, it in zip(loops, iters, strict=True) if it.iter_type == tirx.IterVar.CommReduce]
    if len(spatial) + len(reduced) != len(loops) or not spatial:
        return "it has no data-parallel loop, or others beside reductions"
    inner = spatial[-1:] if len(spatial) > 1 and _extent(schedule, spatial[-1]) >= LANES else []
    outer = spatial[: len(spatial) - len(inner)]
    schedule.reorder(*outer, *reduced, *inner)
    schedule.parallel(schedule.fuse(*outer) if len(outer) > 1 else outer[0])
    if reduced:
        schedule.decompose_reduction(block, reduced[0])  # last: what is scheduled behind it refuses two blocks
    return ""


def _extent(schedule: Schedule, loop: Any) -> int:
    """The length of a loop; one that is known at run time only is taken to be long."""
    extent = schedule.get(loop).extent
    return int(extent) if isinstance(extent, tirx.IntImm) else LANES
