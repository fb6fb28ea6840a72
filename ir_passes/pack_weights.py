"""Choose how each weight is stored, and express it in the IR: the layout its kernels stream.

    linear(x, w)                -->  packed_linear(x or pack_rows(x), pack_weight(w, tile32))
    linear(x, w; scheme)        -->  quant_linear(quant_pack(x), quantize_weight(w, codes), quantize_weight(w, scales), ...)
    embedding(ids, t)           -->  embedding(ids, pack_weight(t, rows or tile32))
    embedding(ids, t; scheme)   -->  quant_embedding(ids, quantize_weight(t, codes), quantize_weight(t, scales), ...)

A table that some linear reads too (tied embeddings) is stored once, in the linear's layout, and where both have the same
weight format.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..schedules.compat import ir, relax
from ..schedules.layouts.scheme import scheme
from .dialect import attr, embedding_op, linear_op, pack_weight
from .dialect.linear import packed
from .dialect.quantized import quantized
from .dialect.quantized_weights import quantized_embedding
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
    """Names of the parameters that are the whole weight of an unquantized linear. Functions share a parameter by its name."""
    rewriter = Rewriter(func)
    params = set(func.params)
    calls = [value for _, value in rewriter.bindings if linear_op.matches(value) and not attr(value, "scheme")]
    return [str(call.args[1].name) for call in calls if call.args[1] in params]


def _pack(func: relax.Function, shared: frozenset[str], log: PassLog) -> relax.Function:
    rewriter = Rewriter(func)
    packed_rows: dict[relax.Var, relax.Var] = {}  # x -> pack_rows(x), where several linears read x
    codes: dict[Any, list[relax.Expr]] = {}  # x and how it is coded -> quant_pack(x), likewise

    def visit(var: relax.Var, value: relax.Expr) -> relax.Call | None:
        if linear_op.matches(value):
            log.matched(f"{attr(value, 'site')}: {attr(value, 'scheme') or 'tile32'}")
            call = relax.Call(value.op, [rewriter.new(a) for a in value.args], value.attrs)
            if attr(value, "scheme"):
                return quantized(call, rewriter.emit, codes)
            return packed(call, rewriter.emit, packed_rows)
        if embedding_op.matches(value):
            ids, table = (rewriter.new(a) for a in value.args)
            attrs = {name: attr(value, name) for name in ("hidden", "table_dtype", "site", "scheme")}
            if attrs["scheme"]:
                log.matched(f"{attrs['site']}: {attrs['scheme']}")
                call = relax.Call(value.op, [ids, table], value.attrs)
                return quantized_embedding(call, rewriter.emit, scheme(attrs["scheme"]).weight.name)
            layout = "tile32" if str(value.args[1].name) in shared else "rows"
            log.matched(f"{attrs['site']}: {layout}")
            return embedding_op(ids, rewriter.emit(pack_weight(table, layout=layout, parts=1)), layout=layout, **attrs)
        return None

    return rewriter.rebuild(visit)
