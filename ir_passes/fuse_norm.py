"""Fuse a norm into the packing of activations: the prologue of a many-row linear, and of every quantized one.

    h = rms_norm(x, g); p = pack_rows(h)         -->  p = pack_rows(x, g; norm = rms)
    h = layer_norm(x, g, b); p = quant_pack(h)   -->  p = quant_pack(x, g, b; norm = layer)

The normalised rows are written once, in the layout that the linear reads; both kernels normalise by the same expressions.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
from .dialect import attr, norm_kind, pack_rows, quant_pack
from .passes import PassLog
from .straightline import Rewriter, rewrite_functions


@dataclasses.dataclass(frozen=True)
class FuseNorm:
    """Fuse an `rms_norm` or `layer_norm` that only one `pack_rows` or `quant_pack` reads."""

    name: str = "fuse_norm"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        return rewrite_functions(mod, log, _fuse)


def _fuse(func: relax.Function, log: PassLog) -> relax.Function:
    rewriter = Rewriter(func)

    def visit(var: relax.Var, value: relax.Expr) -> relax.Call | None:
        op = next((op for op in (pack_rows, quant_pack) if op.matches(value)), None)
        if op is None:
            return None
        packing, norm = op.name.split(".")[1], rewriter.value(value.args[0])
        reason = _obstacle(rewriter, value, norm)
        if reason:
            log.missed(f"{packing} {var.name}", reason)
            return None
        log.matched(f"{packing} {var.name}")
        attrs = {name: value.attrs[name] for name in value.attrs.keys()}  # noqa: SIM118 (not a dict)
        attrs |= {"norm": norm_kind(norm), "norm_eps": attr(norm, "eps")}
        return op(*(rewriter.new(a) for a in norm.args), **attrs)

    return rewriter.rebuild(visit)


def _obstacle(rewriter: Rewriter, pack: relax.Call, norm: relax.Expr) -> str:
    if attr(pack, "norm"):
        return "already normalised while packing"
    if not norm_kind(norm):
        return "the packed value is not normalised right before"
    if attr(norm, "groups") != 1:
        return f"{attr(norm, 'groups')} heads are normalised one by one"
    if len(rewriter.users(pack.args[0])) > 1:
        return "the normalised rows are used elsewhere too"
    return ""
