"""Expressions as text, as they were written: without the types of numbers, without casts of indices, with names as given."""

from __future__ import annotations

from typing import Any

from ...schedules.compat import ir, tirx

OPERATORS: dict[type, tuple[str, int]] = {
    tirx.Or: ("or", 0),
    tirx.And: ("and", 1),
    **{kind: (sign, 2) for kind, sign in ((tirx.EQ, "=="), (tirx.NE, "!="), (tirx.LT, "<"), (tirx.LE, "<="))},
    **{kind: (sign, 2) for kind, sign in ((tirx.GT, ">"), (tirx.GE, ">="))},
    **{kind: (sign, 3) for kind, sign in ((tirx.Add, "+"), (tirx.Sub, "-"))},
    **{
        kind: (sign, 4)
        for kind, sign in ((tirx.Mul, "*"), (tirx.Div, "/"), (tirx.FloorDiv, "//"), (tirx.FloorMod, "%"))
    },
}
"""The sign of an operation, and how tightly it binds."""


def text(expr: Any) -> str:
    """An expression or a number, readable; what has no short form prints as TVM prints it."""
    return _text(expr, 0)


def _text(e: Any, outside: int) -> str:
    """The text of an expression, in parentheses if what stands around it binds tighter than `outside` allows."""
    if isinstance(e, tirx.IntImm | tirx.FloatImm):
        return str(e.value)
    if isinstance(e, ir.TensorLoad):
        return f"{e.source.name}[{_list(e.indices)}]"
    if isinstance(e, ir.Var):
        return str(e.name)
    if type(e) in OPERATORS:
        sign, binds = OPERATORS[type(e)]
        found = f"{_text(e.a, binds)} {sign} {_text(e.b, binds + 1)}"
        return f"({found})" if binds < outside else found
    if isinstance(e, tirx.Max | tirx.Min):
        return f"{'max' if isinstance(e, tirx.Max) else 'min'}({_list((e.a, e.b))})"
    if isinstance(e, tirx.Not):
        return f"not {_text(e.a, 5)}"
    if isinstance(e, tirx.Cast):
        return _text(e.value, outside) if str(e.ty) == "int64" else f"{e.ty}({text(e.value)})"
    if isinstance(e, tirx.Select):
        return f"select({_list((e.condition, e.true_value, e.false_value))})"
    if isinstance(e, ir.Call) and isinstance(e.op, ir.Op):
        return f"{str(e.op.name).rsplit('.', 1)[-1]}({_list(e.args)})"
    return str(e)


def _list(exprs: Any) -> str:
    return ", ".join(map(text, exprs))
