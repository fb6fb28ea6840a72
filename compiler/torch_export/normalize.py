"""An imported torch program as the passes want it: weights are parameters under the module's own names, none are constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...ir_passes.straightline import Rewriter
from ...schedules.compat import TensorType, ir, relax

MAIN = "main"
TAKE = ir.Op.get("relax.take")
DROPPED = ("params",)  # attributes of the importer: the values of the parameters, which are stored beside the program

Expr = Any  # a Relax expression


def normalize(mod: ir.IRModule, names: Mapping[str, str]) -> tuple[ir.IRModule, dict[str, np.ndarray]]:
    """A module of one function `main`, and the arrays that its importer has bound as constants, by their new names.

    `names` gives a better name for parameters. Constants of one dimension or more become parameters behind the others, so
    that the program stays small and its weights can be mapped. Indices out of bounds give NaN, or the nearest element of a
    table of integers, where the importer would read memory that is not the table's. Raises ValueError for a function that
    is not straight-line.
    """
    func = mod[MAIN]
    rewriter = Rewriter(func)
    params = []
    for param in func.params:
        renamed = relax.Var(names[str(param.name)], param.ty) if str(param.name) in names else param
        rewriter.provide(param, renamed)
        params.append(renamed)
    found: dict[str, np.ndarray] = {}

    def lifted(expr: Expr) -> Expr:
        """`expr` with parameters in place of its constants."""
        if isinstance(expr, ir.GenericConst) and isinstance(expr.ty, TensorType) and len(expr.ty.shape):
            name = f"constants.{len(found)}"
            found[name] = expr.value.numpy()
            params.append(relax.Var(name, expr.ty))
            return params[-1]
        if isinstance(expr, relax.Call) and expr.op == TAKE:
            x, indices = (lifted(arg) for arg in expr.args)
            bounded = "nan" if "float" in str(x.ty.dtype) else "clip"
            return relax.op.take(x, indices, axis=expr.attrs.axis, mode=bounded)
        if isinstance(expr, relax.Call):
            return relax.Call(expr.op, [lifted(arg) for arg in expr.args], expr.attrs, expr.ty_args)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([lifted(field) for field in expr.fields])
        return expr

    built = rewriter.rebuild(lambda _, value: lifted(rewriter.new(value)), params=lambda: params)
    kept = {name: value for name, value in (func.attrs or {}).items() if name not in DROPPED}
    bare = relax.Function(built.params, built.body, built.ret_ty, is_pure=built.is_pure)
    return ir.IRModule({MAIN: bare.with_attrs(kept | {"global_symbol": MAIN})}), found
