"""Instances of the same function for different numbers of rows: decode specialization.

    body(x[n], ...)  -->  body_1 (n = 1), body_4 (n <= 4), body_8 (n <= 8), body_n

All instances read the same packed weights and pages; only the kernels' register tiles differ, and their bits do not. The
runtime picks the smallest instance that fits a step.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
from .dialect import attention_op, attr, linear_op
from .passes import PassLog
from .straightline import Rewriter, name_of

FEW_ROWS = ("1", "4", "8")


@dataclasses.dataclass(frozen=True)
class SpecializeRows:
    """`row_dims` names, per function, the symbolic dimension that counts rows; other functions get one instance, `_n`."""

    row_dims: tuple[tuple[str, str], ...] = (("body", "n"), ("head", "r"))
    name: str = "specialize_rows"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        out = ir.IRModule(attrs=mod.attrs)
        row_dims = dict(self.row_dims)
        for gv, func in mod.functions.items():
            name = name_of(gv)
            if not isinstance(func, relax.Function):
                out.update_func(ir.GlobalVar(name), func)
                continue
            log.function = name
            classes = (*FEW_ROWS, "n") if name in row_dims else ("n",)
            if name not in row_dims:
                log.missed(name, "its kernels do not depend on the number of rows")
            for rows in classes:
                symbol = f"{name}_{rows}"
                instance = _instance(func, rows).with_attr("global_symbol", symbol)
                out.update_func(ir.GlobalVar(symbol), instance)
                if rows == "1":
                    out = relax.transform.BindSymbolicVars({row_dims[name]: 1}, symbol)(out)
                log.matched(symbol)
        return out


def _instance(func: relax.Function, rows: str) -> relax.Function:
    rewriter = Rewriter(relax.utils.copy_with_new_vars(func).with_attrs(dict((func.attrs or {}).items())))

    def visit(var: relax.Var, value: relax.Expr) -> relax.Call | None:
        for op, choice in ((linear_op, rows), (attention_op, "any" if rows == "n" else "row")):
            if op.matches(value):
                attrs = {name: value.attrs[name] for name in value.attrs.keys()}  # noqa: SIM118 (not a dict)
                assert attr(value, "rows") in ("n", "any"), "rows are specialized once"
                return op(*(rewriter.new(a) for a in value.args), **(attrs | {"rows": choice}))
        return None

    return rewriter.rebuild(visit)
