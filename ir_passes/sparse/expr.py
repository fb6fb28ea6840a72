"""Expressions as trees: which variables occur, and rewriting of variables and loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...schedules.compat import ir, tirx, tvm_ffi

Expr = Any
Load = Callable[[list[Expr], Sequence[Expr]], Expr]
"""load(rewritten indices, indices as they were): what stands in place of a load."""


def walk(node: Any, kind: type, visit: Callable[[Any], None]) -> None:
    """Call `visit` on every node of a type, outermost first."""

    def on(found: Any) -> Any:
        visit(found)
        return tvm_ffi.WalkResult.ADVANCE

    tvm_ffi.structural_walk(node, (kind, on))


def free_vars(expr: Expr) -> set[tirx.Var]:
    """The variables (buffers among them) of an expression; none of a Python number."""
    found: set[tirx.Var] = set()
    if isinstance(expr, ir.Expr):
        walk(expr, ir.Var, found.add)
    return found


def loads(expr: Expr) -> list[ir.TensorLoad]:
    """The loads in an expression, outermost first."""
    found: list[ir.TensorLoad] = []
    if isinstance(expr, ir.Expr):
        walk(expr, ir.TensorLoad, found.append)
    return found


def substitute(
    expr: Expr, variables: Mapping[tirx.Var, Expr] | None = None, sources: Mapping[Any, Load] | None = None
) -> Expr:
    """Replace variables, and loads from the buffers in `sources`; a load's function gets its indices new and old."""
    variables, sources = variables or {}, sources or {}

    def on_load(load: ir.TensorLoad, _mutator: object = None) -> Expr:
        make = sources.get(load.source)
        return make([go(i) for i in load.indices], load.indices) if make else load

    def go(e: Expr) -> Expr:
        if sources:
            e = tvm_ffi.structural_map(e, (ir.TensorLoad, on_load), order="pre")
        if variables:
            e = tvm_ffi.structural_map(e, (ir.Var, lambda v: variables.get(v, v)), order="pre")
        return e

    return go(expr) if isinstance(expr, ir.Expr) else expr


def same(a: Expr, b: Expr) -> bool:
    """Whether two expressions are equal, variables by identity."""
    return bool(a is b or tvm_ffi.structural_equal(a, b))


def vanishes(expr: Expr, zero: Callable[[ir.TensorLoad], bool]) -> bool:
    """Whether an expression is surely 0 where all loads that `zero` names are 0 (a factor of a product, the sum of such)."""

    def go(e: Expr) -> bool:
        if isinstance(e, ir.TensorLoad):
            return zero(e)
        if isinstance(e, tirx.IntImm | tirx.FloatImm):
            return float(e.value) == 0.0
        if isinstance(e, tirx.Mul):
            return go(e.a) or go(e.b)
        if isinstance(e, tirx.Add | tirx.Sub | tirx.Max | tirx.Min):
            return go(e.a) and go(e.b)
        if isinstance(e, tirx.Div):
            return go(e.a)
        if isinstance(e, tirx.Cast):
            return go(e.value)
        if isinstance(e, tirx.Select):
            return go(e.true_value) and go(e.false_value)
        return bool(isinstance(e, ir.Call) and e.op.name == "prim.if_then_else" and all(map(go, e.args[1:])))

    return go(expr)


def terms(expr: Expr) -> list[Expr]:
    """The summands of an expression; a product over a sum is multiplied out."""
    if isinstance(expr, tirx.Add):
        return terms(expr.a) + terms(expr.b)
    if isinstance(expr, tirx.Sub):
        return terms(expr.a) + [-t for t in terms(expr.b)]
    if isinstance(expr, tirx.Mul):
        left, right = terms(expr.a), terms(expr.b)
        if len(left) > 1 or len(right) > 1:
            return [a * b for a in left for b in right]
    return [expr]
