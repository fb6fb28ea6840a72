"""Fuse RMSNorm into the packing of activations: the prologue of a many-row linear, and of every quantized one.

    h = rms_norm(x, g); p = pack_rows(h)   -->  p = pack_rows(x, g; norm_eps)
    h = rms_norm(x, g); p = quant_pack(h)  -->  p = quant_pack(x, g; norm_eps)

The normalised rows are written once, in the layout that the linear reads; both kernels normalise by the same expressions.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
from .dialect import attr, pack_rows, quant_pack, rms_norm_op
from .passes import PassLog
from .straightline import Rewriter, rewrite_functions


@dataclasses.dataclass(frozen=True)
class FuseNorm:
    """Fuse an `rms_norm` that only one `pack_rows` or `quant_pack` reads."""

    name: str = "fuse_norm"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        return rewrite_functions(mod, log, _fuse)


def _fuse(func: relax.Function, log: PassLog) -> relax.Function:
    rewriter = Rewriter(func)

    def visit(var: relax.Var, value: relax.Expr) -> relax.Call | None:
        op = next((op for op in (pack_rows, quant_pack) if op.matches(value)), None)
        if op is None:
            return None
        kind, norm = op.name.split(".")[1], rewriter.value(value.args[0])
        reason = _obstacle(rewriter, value, norm)
        if reason:
            log.missed(f"{kind} {var.name}", reason)
            return None
        log.matched(f"{kind} {var.name}")
        attrs = {name: value.attrs[name] for name in value.attrs.keys()}  # noqa: SIM118 (not a dict)
        return op(*(rewriter.new(a) for a in norm.args), **(attrs | {"norm_eps": attr(norm, "eps")}))

    return rewriter.rebuild(visit)


def _obstacle(rewriter: Rewriter, pack: relax.Call, norm: relax.Expr) -> str:
    if attr(pack, "norm_eps") >= 0:
        return "already normalised while packing"
    if not rms_norm_op.matches(norm):
        return "the packed value is not an rms_norm"
    if len(rewriter.users(pack.args[0])) > 1:
        return "the normalised rows are used elsewhere too"
    return ""
