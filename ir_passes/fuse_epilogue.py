"""Fuse what follows a linear into it: the residual sum, and silu(gate) * up of a merged projection.

    y = add(x, linear(h, w))                  -->  y = linear(h, w, x; epilogue += residual)
    g, u = split(linear(h, w)); silu_mul(g, u) -->  linear(h, w; epilogue += silu_mul)

The linear writes its result once, already in its final form; the additions happen in the same order as unfused.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
from .dialect import add_op, attr, linear_op, shape_of, silu_mul_op
from .passes import PassLog
from .straightline import Rewriter, rewrite_functions

SPLIT = ir.Op.get("relax.split")


@dataclasses.dataclass(frozen=True)
class FuseEpilogue:
    """Fuse `add` and `silu_mul` into the linear whose only use they are."""

    name: str = "fuse_epilogue"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        return rewrite_functions(mod, log, _fuse)


def _fuse(func: relax.Function, log: PassLog) -> relax.Function:
    rewriter = Rewriter(func)
    position = {var: i for i, (var, _) in enumerate(rewriter.bindings)}

    def extended(call: relax.Call, item: str, *operands: relax.Expr) -> relax.Call:
        attrs = {name: attr(call, name) for name in ("site", "axes", "rows", "scheme")}
        args = [rewriter.new(a) for a in (*call.args, *operands)]
        return linear_op(*args, epilogue=[*attr(call, "epilogue"), item], **attrs)

    def visit(var: relax.Var, value: relax.Expr) -> relax.Call | None:
        if add_op.matches(value):
            # Either side may be the linear; where both could be, the later one is, so that the other exists already.
            sides = sorted(range(2), key=lambda i: position.get(value.args[i], -1), reverse=True)
            reason = "neither operand is a linear"
            for side in sides:
                linear, other = value.args[side], value.args[1 - side]
                if not linear_op.matches(rewriter.value(linear)):
                    continue
                call = rewriter.value(linear)
                reason = _residual_obstacle(rewriter, linear, call)
                if not reason:
                    log.matched(f"{attr(call, 'site')}: residual")
                    return extended(call, "residual", other)
            log.missed(f"add {var.name}", reason)
        elif silu_mul_op.matches(value):
            call, reason = _gated_linear(rewriter, value)
            if call is not None:
                log.matched(f"{attr(call, 'site')}: silu_mul")
                return extended(call, "silu_mul")
            log.missed(f"silu_mul {var.name}", reason)
        return None

    return rewriter.rebuild(visit)


def _residual_obstacle(rewriter: Rewriter, var: relax.Var, call: relax.Call) -> str:
    if len(rewriter.users(var)) > 1:
        return "the linear's result is used elsewhere too"
    if not set(attr(call, "epilogue")) <= {"bias"}:
        return f"the linear already ends in {attr(call, 'epilogue')[-1]}"
    return ""


def _gated_linear(rewriter: Rewriter, gated: relax.Call) -> tuple[relax.Call | None, str]:
    """The linear whose two halves `gated` multiplies, or the reason why there is none."""
    halves = [rewriter.value(a) for a in gated.args]
    if not all(isinstance(h, relax.TupleGetItem) for h in halves):
        return None, "gate and up are not parts of one linear"
    if [h.index for h in halves] != [0, 1] or not halves[0].tuple_value.same_as(halves[1].tuple_value):
        return None, "gate and up are not the first and second part of one linear"
    parts = halves[0].tuple_value
    split = rewriter.value(parts)
    if not (isinstance(split, relax.Call) and split.op == SPLIT):
        return None, "gate and up do not come from a split"
    linear = split.args[0]
    call = rewriter.value(linear)
    if not linear_op.matches(call):
        return None, "the split value is not a linear"
    widths = [shape_of(a)[1] for a in gated.args]
    if len(split.ty.fields) != 2 or widths[0] != widths[1]:
        return None, "the linear is not split into two equal halves"
    if any(len(rewriter.users(v)) > 1 for v in (linear, *gated.args)):
        return None, "gate, up or their linear is used elsewhere too"
    if not set(attr(call, "epilogue")) <= {"bias"}:
        return None, f"the linear already ends in {attr(call, 'epilogue')[-1]}"
    return call, ""
