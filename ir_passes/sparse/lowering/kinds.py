"""Kinds of loops that the lowering knows to be right, where a schedule primitive cannot tell.

s_tir's `parallel` and `vectorize` refuse blocks that read what they write, as every accumulation does, and loops outside of the
block that they are asked about. Whether iterations are independent follows from the program: they write different coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping

from ....schedules.compat import s_tir, tirx, tvm, tvm_ffi

PARALLEL, VECTORIZED, UNROLLED = tirx.ForKind.PARALLEL, tirx.ForKind.VECTORIZED, tirx.ForKind.UNROLLED


def set_kinds(sch: s_tir.Schedule, kinds: Mapping[str, int]) -> s_tir.Schedule:
    """A schedule of the same module, in which loops over the named axes have these kinds. KeyError for names without a loop."""
    found: set[str] = set()

    def on_for(loop: tirx.For, _mutator: object = None) -> tirx.For:
        name = str(loop.loop_var.name)
        if name not in kinds:
            return loop
        found.add(name)
        return tirx.For(loop.loop_var, loop.min, loop.extent, kinds[name], loop.body, annotations=loop.annotations)

    body = tvm_ffi.structural_map(sch.mod["main"].body, (tirx.For, on_for), order="pre")
    if missing := set(kinds) - found:
        raise KeyError(f"no loops over {', '.join(sorted(missing))}")
    return s_tir.Schedule(tvm.IRModule({"main": sch.mod["main"].with_body(body)}))
