"""Fuse rotation and cache append of one attention into a single kernel over the merged projection.

    q, k, v = split(y); q' = rope(q); k' = rope(k); cache' = kv_append(k', v, cache)
      -->  cache', q' = rope_append(y, cache)

The projection is read once and k goes straight to its page. The arithmetic is the same, so the bits are.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
from .dialect import attr, kv_append_op, rope_append_op, rope_op
from .passes import PassLog
from .straightline import DROP, Rewriter, rewrite_functions

SPLIT = ir.Op.get("relax.split")


@dataclasses.dataclass(frozen=True)
class FuseRopeAppend:
    """Fuse rope(q), rope(k) and kv_append that read the three parts of one projection."""

    name: str = "fuse_rope_append"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        return rewrite_functions(mod, log, _fuse)


def _fuse(func: relax.Function, log: PassLog) -> relax.Function:
    rewriter = Rewriter(func)
    rotated_query: dict[relax.Var, relax.Var] = {}  # the kv_append's variable -> the variable of rope(q)
    for var, value in rewriter.bindings:
        if kv_append_op.matches(value):
            query, reason = _match(rewriter, var, value)
            site = f"layer {attr(value, 'layer')}"
            if query is None:
                log.missed(site, reason)
            else:
                log.matched(site)
                rotated_query[var] = query
    dropped = set(rotated_query.values())

    def visit(var: relax.Var, value: relax.Expr) -> object:
        if var in dropped:
            return DROP
        if var not in rotated_query:
            return None
        key, _, plan, cache = value.args
        query = rewriter.value(rotated_query[var])
        table = rewriter.value(key).args[1]
        projection = rewriter.value(rewriter.value(query.args[0]).tuple_value).args[0]
        attrs = {n: attr(value, n) for n in ("layer", "kv_heads", "head_dim", "max_tokens", "max_seqs")}
        attrs |= {"heads": attr(query, "heads"), "interleaved": attr(query, "interleaved")}
        args = [rewriter.new(a) for a in (projection, table, plan, cache)]
        both = rewriter.emit(rope_append_op(*args, **attrs))
        rewriter.provide(rotated_query[var], rewriter.emit(relax.TupleGetItem(both, 1), rotated_query[var].name))
        return relax.TupleGetItem(both, 0)

    return rewriter.rebuild(visit)


def _match(rewriter: Rewriter, append_var: relax.Var, append: relax.Call) -> tuple[relax.Var | None, str]:
    """The variable of rope(q) that belongs to this append, or the reason why there is none."""
    if attr(append, "value_dim") != attr(append, "head_dim"):
        return None, "heads of k and v differ in size"
    key, value = rewriter.value(append.args[0]), rewriter.value(append.args[1])
    if not rope_op.matches(key):
        return None, "k is not rotated right before it is appended"
    key_part = rewriter.value(key.args[0])
    if not all(isinstance(part, relax.TupleGetItem) for part in (key_part, value)):
        return None, "k and v are not parts of one projection"
    parts = key_part.tuple_value
    split = rewriter.value(parts)
    if not (isinstance(split, relax.Call) and split.op == SPLIT and value.tuple_value.same_as(parts)):
        return None, "k and v are not parts of one projection"
    if (key_part.index, value.index, len(split.ty.fields)) != (1, 2, 3):
        return None, "the projection's parts are not q, k and v in this order"
    queries = [
        user
        for item in rewriter.users(parts)
        if rewriter.value(item).index == 0
        for user in rewriter.users(item)
        if rope_op.matches(rewriter.value(user))
    ]
    if len(queries) != 1:
        return None, "q is not rotated exactly once"
    query = rewriter.value(queries[0])
    if not query.args[1].same_as(key.args[1]) or attr(query, "interleaved") != attr(key, "interleaved"):
        return None, "q and k are rotated differently"
    if any(len(rewriter.users(v)) > 1 for v in (append.args[0], append.args[1], key.args[0], query.args[0])):
        return None, "k, v or q before rotation is used elsewhere too"
    order = [var for var, _ in rewriter.bindings]
    first_use = min(order.index(user) for user in rewriter.users(queries[0]))
    if first_use < order.index(append_var):
        return None, "the rotated q is needed before the append"
    return queries[0], ""
