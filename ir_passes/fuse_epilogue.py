"""Fuse what follows a linear into it: activation functions and gates, a scale, the residual sum.

    activation(linear(h, w))                 -->  linear(h, w; epilogue += <kind>)
    g, u = split(linear(h, w)); gated(g, u)  -->  linear(h, w; epilogue += gated:<kind>)
    scale(linear(h, w))                      -->  linear(h, w; epilogue += scale:<factor>)
    add(x, linear(h, w))                     -->  linear(h, w, x; epilogue += residual)

The linear writes its result once, already in its final form; every step rounds as unfused (`schedules.epilogue`).
"""

from __future__ import annotations

import dataclasses

from ..schedules import epilogue as epilogues
from ..schedules.compat import ir, relax
from .dialect import activation_op, add_op, attr, gated_op, linear_op, scale_op, shape_of
from .passes import PassLog
from .straightline import Rewriter, rewrite_functions

SPLIT = ir.Op.get("relax.split")


@dataclasses.dataclass(frozen=True)
class FuseEpilogue:
    """Fuse `activation`, `gated`, `scale` and `add` into the linear whose only use they are."""

    name: str = "fuse_epilogue"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        return rewrite_functions(mod, log, lambda func, log: _Fusion(func, log).rewritten())


class _Fusion:
    """The rewriting of one function. `linears` has every variable that is a linear, before or after fusion, in old variables."""

    def __init__(self, func: relax.Function, log: PassLog) -> None:
        self.rewriter, self.log = Rewriter(func), log
        self.position = {var: i for i, (var, _) in enumerate(self.rewriter.bindings)}
        self.linears = {var: call for var, call in self.rewriter.bindings if linear_op.matches(call)}

    def rewritten(self) -> relax.Function:
        return self.rewriter.rebuild(self.visit)

    def visit(self, var: relax.Var, value: relax.Expr) -> relax.Call | None:
        for op, fuse in (
            (add_op, self.add),
            (gated_op, self.gated),
            (activation_op, self.single),
            (scale_op, self.single),
        ):
            if op.matches(value):
                reason = fuse(var, value)
                if reason:
                    self.log.missed(f"{op.name.split('.')[1]} {var.name}", reason)
                    return None
                call = self.linears[var]
                self.log.matched(f"{attr(call, 'site')}: {attr(call, 'epilogue')[-1]}")
                return linear_op(*(self.rewriter.new(a) for a in call.args), **_attrs(call))
        return None

    def add(self, var: relax.Var, value: relax.Call) -> str:
        # Either side may be the linear; where both could be, the later one is, so that the other exists already.
        sides = sorted(range(2), key=lambda i: self.position.get(value.args[i], -1), reverse=True)
        reason = "neither operand is a linear"
        for side in sides:
            linear, other = value.args[side], value.args[1 - side]
            if linear in self.linears:
                reason = self.extend(var, linear, "residual", other)
                if not reason:
                    break
        return reason

    def single(self, var: relax.Var, value: relax.Call) -> str:
        """An op on the linear alone."""
        if value.args[0] not in self.linears:
            return "the operand is not a linear"
        scaled = scale_op.matches(value)
        item = f"{epilogues.SCALE}{attr(value, 'factor')!r}" if scaled else attr(value, "kind")
        return self.extend(var, value.args[0], item)

    def gated(self, var: relax.Var, value: relax.Call) -> str:
        halves = [self.rewriter.value(a) for a in value.args]
        if not all(isinstance(h, relax.TupleGetItem) for h in halves):
            return "gate and up are not parts of one linear"
        if [h.index for h in halves] != [0, 1] or not halves[0].tuple_value.same_as(halves[1].tuple_value):
            return "gate and up are not the first and second part of one linear"
        split = self.rewriter.value(halves[0].tuple_value)
        if not (isinstance(split, relax.Call) and split.op == SPLIT):
            return "gate and up do not come from a split"
        linear = split.args[0]
        if linear not in self.linears:
            return "the split value is not a linear"
        widths = [shape_of(a)[1] for a in value.args]
        if len(split.ty.fields) != 2 or widths[0] != widths[1]:
            return "the linear is not split into two equal halves"
        if any(len(self.rewriter.users(a)) > 1 for a in value.args):
            return "gate, up or their linear is used elsewhere too"
        return self.extend(var, linear, epilogues.GATED + attr(value, "kind"))

    def extend(self, var: relax.Var, linear: relax.Var, item: str, *operands: relax.Expr) -> str:
        """Say that `var` is `linear` with one more item in its epilogue, or why it cannot be."""
        call = self.linears[linear]
        if len(self.rewriter.users(linear)) > 1:
            return "the linear's result is used elsewhere too"
        epilogue = [*attr(call, "epilogue"), item]
        if epilogues.obstacle(epilogue):
            return f"the linear already ends in {epilogue[-2]}"
        self.linears[var] = linear_op(*call.args, *operands, **(_attrs(call) | {"epilogue": epilogue}))
        return ""


def _attrs(call: relax.Call) -> dict[str, object]:
    return {name: attr(call, name) for name in ("site", "axes", "epilogue", "rows", "scheme")}
