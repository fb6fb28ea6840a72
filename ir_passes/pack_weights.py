"""Choose how each weight is stored, and express it in the IR: the layout its kernels stream.

    linear(x, w)        -->  packed_linear(x or pack_rows(x), pack_weight(w, tile32))
    embedding(ids, t)   -->  embedding(ids, pack_weight(t, rows or tile32))

A table that some linear reads too (tied embeddings) is stored once, in the linear's layout.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
from .dialect import attr, embedding_op, linear_op, pack_weight
from .dialect.linear import packed
from .passes import PassLog
from .straightline import Rewriter, rewrite_functions


@dataclasses.dataclass(frozen=True)
class PackWeights:
    """Pack the weights of every linear and embedding of the module."""

    name: str = "pack_weights"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        functions = [f for f in mod.functions.values() if isinstance(f, relax.Function)]
        shared = frozenset(name for f in functions for name in _linear_params(f))
        return rewrite_functions(mod, log, lambda func, log: _pack(func, shared, log))


def _linear_params(func: relax.Function) -> list[str]:
    """Names of the parameters that are a linear's whole weight. Functions share a parameter by its name."""
    rewriter = Rewriter(func)
    params = set(func.params)
    calls = [value for _, value in rewriter.bindings if linear_op.matches(value)]
    return [str(call.args[1].name) for call in calls if call.args[1] in params]


def _pack(func: relax.Function, shared: frozenset[str], log: PassLog) -> relax.Function:
    rewriter = Rewriter(func)
    packed_rows: dict[relax.Var, relax.Var] = {}  # x -> pack_rows(x), where several linears read x

    def visit(var: relax.Var, value: relax.Expr) -> relax.Call | None:
        if linear_op.matches(value):
            log.matched(attr(value, "site"))
            call = relax.Call(value.op, [rewriter.new(a) for a in value.args], value.attrs)
            return packed(call, rewriter.emit, packed_rows)
        if embedding_op.matches(value):
            ids, table = (rewriter.new(a) for a in value.args)
            layout = "tile32" if str(value.args[1].name) in shared else "rows"
            log.matched(f"embedding: {layout}")
            attrs = {"hidden": attr(value, "hidden"), "table_dtype": attr(value, "table_dtype")}
            return embedding_op(ids, rewriter.emit(pack_weight(table, layout=layout, parts=1)), layout=layout, **attrs)
        return None

    return rewriter.rebuild(visit)
