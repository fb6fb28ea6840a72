"""Fuse rotation and cache append of one attention into a single kernel over the merged projection.

    q, k, v = split(y); q' = rope(q); k' = rope(k); cache' = kv_append(k', v, cache)
      -->  cache', q' = rope_append(y, cache)

The same where the heads of q and k are RMS-normalised before the rotation (Qwen3, Gemma 3): rope_append(y, cache, wq, wk).
The projection is read once and k goes straight to its page. The arithmetic is the same, so the bits are.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
from .dialect import attr, kv_append_op, rms_norm_op, rope_append_op, rope_op, shape_of
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
        query, key = rewriter.value(rotated_query[var]), rewriter.value(key)
        (part, q_norm), (_, k_norm) = _unnormed(rewriter, query.args[0]), _unnormed(rewriter, key.args[0])
        projection = rewriter.value(part.tuple_value).args[0]
        weights = [norm.args[1] for norm in (q_norm, k_norm) if norm is not None]
        attrs = {n: attr(value, n) for n in ("layer", "kv_heads", "head_dim", "max_tokens", "max_seqs")}
        attrs |= {"heads": attr(query, "heads"), "interleaved": attr(query, "interleaved")}
        attrs["norm_eps"] = attr(q_norm, "eps") if q_norm is not None else 0.0
        args = [rewriter.new(a) for a in (projection, key.args[1], plan, cache, *weights)]
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
    key_part, key_norm = _unnormed(rewriter, key.args[0])
    if not all(isinstance(part, relax.TupleGetItem) for part in (key_part, value)):
        return None, "k and v are not parts of one projection"
    parts = key_part.tuple_value
    split = rewriter.value(parts)
    if not (isinstance(split, relax.Call) and split.op == SPLIT and value.tuple_value.same_as(parts)):
        return None, "k and v are not parts of one projection"
    if (key_part.index, value.index, len(split.ty.fields)) != (1, 2, 3):
        return None, "the projection's parts are not q, k and v in this order"
    queries = [
        var
        for var, value in rewriter.bindings
        if rope_op.matches(value) and _is_part(_unnormed(rewriter, value.args[0])[0], parts, 0)
    ]
    if len(queries) != 1:
        return None, "q is not rotated exactly once"
    query = rewriter.value(queries[0])
    if not query.args[1].same_as(key.args[1]) or attr(query, "interleaved") != attr(key, "interleaved"):
        return None, "q and k are rotated differently"
    query_norm = _unnormed(rewriter, query.args[0])[1]
    reason = _norm_obstacle(query, query_norm, key, key_norm)
    if reason:
        return None, reason
    inner = [norm.args[0] for norm in (query_norm, key_norm) if norm is not None]
    if any(len(rewriter.users(v)) > 1 for v in (*append.args[:2], key.args[0], query.args[0], *inner)):
        return None, "k, v or q before rotation is used elsewhere too"
    order = [var for var, _ in rewriter.bindings]
    first_use = min(order.index(user) for user in rewriter.users(queries[0]))
    if first_use < order.index(append_var):
        return None, "the rotated q is needed before the append"
    return queries[0], ""


def _unnormed(rewriter: Rewriter, var: relax.Expr) -> tuple[relax.Expr, relax.Call | None]:
    """What a variable is bound to, or, where that is an RMSNorm, what it normalises; and the norm."""
    value = rewriter.value(var)
    if rms_norm_op.matches(value):
        return rewriter.value(value.args[0]), value
    return value, None


def _is_part(value: relax.Expr, parts: relax.Var, index: int) -> bool:
    return isinstance(value, relax.TupleGetItem) and value.index == index and value.tuple_value.same_as(parts)


def _norm_obstacle(query: relax.Call, q_norm: relax.Call | None, key: relax.Call, k_norm: relax.Call | None) -> str:
    """Why the kernel cannot normalise q and k on the way."""
    if q_norm is None and k_norm is None:
        return ""
    if q_norm is None or k_norm is None:
        return "only one of q and k is normalised"
    if attr(q_norm, "eps") != attr(k_norm, "eps"):
        return "q and k are normalised with different eps"
    for rope, norm in ((query, q_norm), (key, k_norm)):
        if attr(norm, "groups") != attr(rope, "heads") or shape_of(norm.args[1])[0] != attr(rope, "head_dim"):
            return "q and k are not normalised head by head with one weight"
    return ""
