"""Fuse what stands between the merged projection of one attention and its cache: norms, rotation, and the append.

    q, k, v = split(y); q' = rope(norm(q)); k' = rope(norm(k)); cache' = kv_append(k', v, cache)
      -->  cache', q' = qkv_append(y, cache)

Norms and rotation are there or not, for q and k alike: none (GPT-2, BERT), rotation (Llama), norms of heads before it (Qwen 3,
Cohere) or of whole rows (OLMo 2). The projection is read once and k goes straight to its page. The arithmetic is the same, so
the bits are.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
from .dialect import attr, kv_append_op, norm_kind, qkv_append_op, rope_op, shape_of
from .passes import PassLog
from .straightline import DROP, Rewriter, rewrite_functions

SPLIT = ir.Op.get("relax.split")


@dataclasses.dataclass(frozen=True)
class FuseQkvAppend:
    """Fuse a kv_append with the split of its projection, and with the norms and rotations of q and k between them."""

    name: str = "fuse_qkv_append"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        return rewrite_functions(mod, log, _fuse)


@dataclasses.dataclass(frozen=True)
class _Side:
    """How q or k comes from its `part` of the projection: normalised, then rotated, each perhaps. `inner` are the variables
    between the part and the end."""

    part: relax.Expr
    norm: relax.Call | None
    rope: relax.Call | None
    inner: list[relax.Var]


@dataclasses.dataclass(frozen=True)
class _Match:
    """A fused call, and the variable of the query that it gives."""

    query: relax.Var
    args: list[relax.Expr]
    attrs: dict[str, object]


def _fuse(func: relax.Function, log: PassLog) -> relax.Function:
    rewriter = Rewriter(func)
    matches: dict[relax.Var, _Match] = {}
    for var, value in rewriter.bindings:
        if kv_append_op.matches(value):
            found = _match(rewriter, var, value)
            site = f"layer {attr(value, 'layer')}"
            if isinstance(found, str):
                log.missed(site, found)
            else:
                log.matched(site)
                matches[var] = found
    dropped = {match.query for match in matches.values()}

    def visit(var: relax.Var, value: relax.Expr) -> object:
        if var in dropped:
            return DROP
        if var not in matches:
            return None
        match = matches[var]
        both = rewriter.emit(qkv_append_op(*(rewriter.new(a) for a in match.args), **match.attrs))
        rewriter.provide(match.query, rewriter.emit(relax.TupleGetItem(both, 1), match.query.name))
        return relax.TupleGetItem(both, 0)

    return rewriter.rebuild(visit)


def _match(rewriter: Rewriter, append_var: relax.Var, append: relax.Call) -> _Match | str:
    """The attention of this append, or why it is not fused."""
    dim, kv_heads = attr(append, "head_dim"), attr(append, "kv_heads")
    if attr(append, "value_dim") != dim:
        return "heads of k and v differ in size"
    key, value = _side(rewriter, append.args[0]), rewriter.value(append.args[1])
    if not all(isinstance(part, relax.TupleGetItem) for part in (key.part, value)):
        return "k and v are not parts of one projection"
    parts = key.part.tuple_value
    split = rewriter.value(parts)
    if not (isinstance(split, relax.Call) and split.op == SPLIT and value.tuple_value.same_as(parts)):
        return "k and v are not parts of one projection"
    if (key.part.index, value.index, len(split.ty.fields)) != (1, 2, 3):
        return "the projection's parts are not q, k and v in this order"
    end = _query(rewriter, parts)
    if end is None:
        return "q is not taken, normalised and rotated once"
    query, heads = _side(rewriter, end), shape_of(end)[1] // dim
    norm_over, reason = _norms(query.norm, key.norm, heads, kv_heads, dim)
    reason = _rope_obstacle(query.rope, key.rope) or reason
    if reason:
        return reason
    if any(len(rewriter.users(v)) > 1 for v in (*append.args[:2], *key.inner, *query.inner)):
        return "k, v or q on its way is used elsewhere too"
    order = [var for var, _ in rewriter.bindings]
    if any(order.index(user) < order.index(append_var) for user in rewriter.users(end)):
        return "q is needed before the append"
    args, sides = [split.args[0], *append.args[2:]], (query, key)
    attrs = {n: attr(append, n) for n in ("layer", "kv_heads", "head_dim", "max_tokens", "max_seqs")}
    attrs |= {"heads": heads, "interleaved": False, "norm": "", "norm_eps": 0.0, "norm_over": norm_over}
    if query.rope is not None:
        args.append(query.rope.args[1])
        attrs["interleaved"] = attr(query.rope, "interleaved")
    if query.norm is not None:
        args += [side.norm.args[1] for side in sides if side.norm is not None]
        attrs |= {"norm": norm_kind(query.norm), "norm_eps": attr(query.norm, "eps")}
    return _Match(end, args, attrs)


def _side(rewriter: Rewriter, end: relax.Var) -> _Side:
    """How `end` came to be, looking back."""
    norm, rope, inner, part = None, None, [], rewriter.value(end)
    if rope_op.matches(part):
        rope, inner = part, [part.args[0]]
        part = rewriter.value(inner[-1])
    if norm_kind(part):
        norm, inner = part, [*inner, part.args[0]]
        part = rewriter.value(inner[-1])
    return _Side(part, norm, rope, inner)


def _query(rewriter: Rewriter, parts: relax.Var) -> relax.Var | None:
    """The first of the parts, as far as it is normalised and then rotated; None where that is not clear."""
    first = [var for var, value in rewriter.bindings if _is_part(value, parts, 0)]
    if len(first) != 1:
        return None
    end = first[0]
    for matches in (norm_kind, rope_op.matches):
        turned = [user for user in rewriter.users(end) if matches(rewriter.value(user))]
        if len(turned) > 1:
            return None
        end = turned[0] if turned else end
    return end


def _is_part(value: relax.Expr, parts: relax.Var, index: int) -> bool:
    return isinstance(value, relax.TupleGetItem) and value.index == index and value.tuple_value.same_as(parts)


def _rope_obstacle(query: relax.Call | None, key: relax.Call | None) -> str:
    if query is None and key is None:
        return ""
    if query is None or key is None:
        return "only one of q and k is rotated"
    same = query.args[1].same_as(key.args[1]) and attr(query, "interleaved") == attr(key, "interleaved")
    return "" if same else "q and k are rotated differently"


def _norms(query: relax.Call | None, key: relax.Call | None, heads: int, kv_heads: int, dim: int) -> tuple[str, str]:
    """What the norms of q and k normalise, as `qkv_append` calls it ("" where there are none), or why it cannot do that."""
    if query is None and key is None:
        return "", ""
    if query is None or key is None:
        return "", "only one of q and k is normalised"
    if query.op != key.op or attr(query, "eps") != attr(key, "eps"):
        return "", "q and k are normalised differently"
    if len(query.args) > 2 or len(key.args) > 2:
        return "", "the norms of q and k have biases"
    found = [kind for kind in _norm_over(query, heads, dim) if kind in _norm_over(key, kv_heads, dim)]
    return (found[0], "") if found else ("", "q and k are normalised neither head by head nor as whole rows")


def _norm_over(norm: relax.Call, heads: int, dim: int) -> list[str]:
    """What a norm of so many heads normalises; for a single head there are several words."""
    found = attr(norm, "groups"), shape_of(norm.args[1])[0]
    kinds = {"head": (heads, dim), "heads": (heads, heads * dim), "full": (1, heads * dim)}
    return [kind for kind, sizes in kinds.items() if sizes == found]
