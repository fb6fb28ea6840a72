"""The last step of every schedule: reductions of unknown extent get their init as a block in front.

An sblock's init runs inside its reduction loop, at the first iteration. Over an empty row there is none, and the output would
keep what it held. So every reduction that may be empty is decomposed, after all other schedule primitives: some of them
(cache_write) do not know blocks that were decomposed before.
"""

from __future__ import annotations

from ....schedules.compat import s_tir, tirx
from ..expr import free_vars, walk

REDUCE = 2  # tirx.IterVar.CommReduce


def decompose_inits(sch: s_tir.Schedule) -> s_tir.Schedule:
    """Decompose all reductions over loops of unknown extent, or of none; returns the schedule."""
    found: list[s_tir.SBlockRealize] = []
    walk(sch.mod, s_tir.SBlockRealize, found.append)
    for realize in found:
        block = realize.block
        over = [(v, e) for v, e in zip(block.iter_vars, realize.iter_values, strict=True) if v.iter_type == REDUCE]
        if block.init is None or all(_runs(v.dom.extent) for v, _ in over):
            continue
        handle = sch.get_sblock(block.name_hint)
        used = set().union(*(free_vars(e) for _, e in over))
        outermost = next(loop for loop in sch.get_loops(handle) if sch.get(loop).loop_var in used)
        sch.decompose_reduction(handle, outermost)
    return sch


def _runs(extent: object) -> bool:
    """Whether a loop surely has an iteration."""
    return isinstance(extent, tirx.IntImm) and int(extent.value) > 0
