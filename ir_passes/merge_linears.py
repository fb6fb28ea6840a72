"""Merge linears of a module that share their input into one linear and a split: q, k and v; gate and up.

    q = linear(x, wq); k = linear(x, wk); v = linear(x, wv)
      -->  y = linear(x, concat(wq, wk, wv)); q, k, v = split(y)

One pass over the activations, one parallel region, longer streams of weights. The concatenation is a weight-only expression
and is lifted to compile time. Outputs of a linear are independent chains, so the merge changes no bit. Where attention and
feed-forward layer read the same input (parallel residuals), each keeps a linear of its own: what follows them differs.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
from .dialect import attr, linear_op, shape_of
from .passes import PassLog
from .straightline import DROP, Rewriter, rewrite_functions


@dataclasses.dataclass(frozen=True)
class MergeLinears:
    """Merge all linears of one input, one module and one quantization scheme that agree in weight dtype and in having a bias."""

    name: str = "merge_linears"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        return rewrite_functions(mod, log, _merge)


def _merge(func: relax.Function, log: PassLog) -> relax.Function:
    rewriter = Rewriter(func)
    groups: dict[tuple[relax.Var, str, str], list[tuple[relax.Var, relax.Call]]] = {}
    for var, value in rewriter.bindings:
        if linear_op.matches(value):
            module = attr(value, "site").rpartition(".")[0]
            groups.setdefault((value.args[0], module, attr(value, "scheme")), []).append((var, value))

    leader: dict[relax.Var, list[tuple[relax.Var, relax.Call]]] = {}
    followers: set[relax.Var] = set()
    for members in groups.values():
        sites = "+".join(attr(call, "site") for _, call in members)
        reason = _obstacle([call for _, call in members])
        if reason:
            log.missed(sites, reason)
            continue
        log.matched(sites)
        leader[members[0][0]] = members
        followers.update(var for var, _ in members[1:])

    def visit(var: relax.Var, value: relax.Expr) -> object:
        if var in followers:
            return DROP
        if var not in leader:
            return None
        calls = [call for _, call in leader[var]]
        widths = [shape_of(call.args[1])[0] for call in calls]
        weight = rewriter.emit(relax.op.concat([rewriter.new(c.args[1]) for c in calls], axis=0))
        operands = []
        if attr(value, "epilogue"):
            operands = [rewriter.emit(relax.op.concat([rewriter.new(c.args[2]) for c in calls], axis=0))]
        sites = [attr(call, "site") for call in calls]
        attrs = {name: attr(value, name) for name in ("axes", "epilogue", "rows", "scheme")}
        merged = linear_op(rewriter.new(value.args[0]), weight, *operands, site=_merged_site(sites), **attrs)
        cuts = [sum(widths[: i + 1]) for i in range(len(widths) - 1)]
        parts = rewriter.emit(relax.op.split(rewriter.emit(merged), cuts, axis=1))
        for i, (member, _) in enumerate(leader[var]):
            rewriter.provide(member, rewriter.emit(relax.TupleGetItem(parts, i), member.name))
        return DROP

    return rewriter.rebuild(visit)


def _obstacle(calls: list[relax.Call]) -> str:
    if len(calls) == 1:
        return "no other linear of its module and scheme reads the same input"
    dtypes = {str(call.args[1].ty.dtype) for call in calls}
    if len(dtypes) > 1:
        return f"the weights are stored in different dtypes: {', '.join(sorted(dtypes))}"
    epilogues = {tuple(attr(call, "epilogue")) for call in calls}
    if len(epilogues) > 1:
        return "some have a bias and some do not"
    return "" if epilogues <= {(), ("bias",)} else "an epilogue other than a bias is already fused"


def _merged_site(sites: list[str]) -> str:
    """`layers.0.attn.q`, `layers.0.attn.k` -> `layers.0.attn.q+k`."""
    prefix = sites[0].rpartition(".")[0]
    last = "+".join(site.rpartition(".")[2] for site in sites)
    return f"{prefix}.{last}" if prefix else last
