"""A scalar expression in 16 lanes: how an expression of the format layer becomes the inside of an explicit-vector kernel.

Variables are replaced by vectors or scalars; what depends on a vector becomes a vector. The numerics contract is kept: a
product that feeds a sum becomes one fma, and `exp` and `tanh` are our own.
"""

from __future__ import annotations

from collections.abc import Mapping

from .activations import tanh
from .compat import Analyzer, T, ir, tirx
from .emit import Value
from .vector import LANES, Vec, const, exp, fma, splat

_BINARY = (
    *(tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Min, tirx.Max, tirx.FloorDiv, tirx.FloorMod, tirx.Mod),
    *(tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.And, tirx.Or),
    *(tirx.BitwiseAnd, tirx.BitwiseOr, tirx.BitwiseXor, tirx.LShift, tirx.RShift),
)


def is_vector(expr: Value) -> bool:
    """Whether an expression has 16 lanes."""
    return str(expr.ty).endswith(f"x{LANES}")


def vector(expr: Value) -> Vec:
    """The expression in 16 lanes, repeated if it is a scalar."""
    return expr if is_vector(expr) else splat(expr)


def in_lanes(expr: Value, values: Mapping[tirx.Var, Value]) -> Value:
    """`expr` with its variables replaced; a vector of 16 lanes where any replacement that it depends on is one.

    Raises ValueError for an operation that has no vector form here.
    """
    if isinstance(expr, ir.TensorLoad):
        index = [Analyzer().simplify(in_lanes(i, values)) for i in expr.indices]
        return expr.source[tuple(index)]
    if isinstance(expr, tirx.Var):
        return values.get(expr, expr)
    if isinstance(expr, tirx.IntImm | tirx.FloatImm):
        return expr
    if isinstance(expr, tirx.Add | tirx.Sub) and str(expr.ty) == "float32":
        fused = _fused(expr, values)
        if fused is not None:
            return fused
    if isinstance(expr, _BINARY):
        a, b = _alike(in_lanes(expr.a, values), in_lanes(expr.b, values))
        return type(expr)(a, b)
    if isinstance(expr, tirx.Not):
        return tirx.Not(in_lanes(expr.a, values))
    if isinstance(expr, tirx.Select):
        condition, a, b = _alike(*(in_lanes(e, values) for e in (expr.condition, expr.true_value, expr.false_value)))
        return tirx.Select(condition, a, b)
    if isinstance(expr, tirx.Cast):
        value = in_lanes(expr.value, values)
        return T.cast(value, f"{expr.ty}x{LANES}" if is_vector(value) else str(expr.ty))
    if isinstance(expr, ir.Call):
        args = [in_lanes(a, values) for a in expr.args]
        if not any(is_vector(a) for a in args):
            return expr if not args else type(expr)(expr.op, args, ret_ty=expr.ty)
        known = {"tirx.exp": exp, "tirx.tanh": tanh}.get(str(getattr(expr.op, "name", "")))
        if known:
            return known(*args)
    raise ValueError(
        f"{expr} ({type(expr).__name__}) has no form in {LANES} lanes; use arithmetic, Select, exp or tanh"
    )


def _fused(expr: Value, values: Mapping[tirx.Var, Value]) -> Value | None:
    """a * b + c and c - a * b as one fma; None where no operand is a product or nothing is a vector."""
    product, other = (expr.a, expr.b) if isinstance(expr.a, tirx.Mul) else (expr.b, expr.a)
    if not isinstance(product, tirx.Mul) or (isinstance(expr, tirx.Sub) and product is expr.a):
        return None
    a, b, c = (in_lanes(e, values) for e in (product.a, product.b, other))
    if not any(is_vector(e) for e in (a, b, c)):
        return None
    a, b, c = vector(a), vector(b), vector(c)
    return fma(const(0.0) - a if isinstance(expr, tirx.Sub) else a, b, c)


def _alike(*exprs: Value) -> tuple[Value, ...]:
    return tuple(vector(e) for e in exprs) if any(is_vector(e) for e in exprs) else exprs
