"""Write the quantization scheme of each site into the IR, where later passes find it.

    linear(x, w; site=layers.0.mlp.down)  -->  linear(x, w; site=layers.0.mlp.down, scheme=w4a8-g32)

Sites without a scheme keep their weights as the checkpoint stores them.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
from .dialect import attr, embedding_op, linear_op
from .passes import PassLog
from .straightline import Rewriter, rewrite_functions


@dataclasses.dataclass(frozen=True)
class AssignSchemes:
    """`schemes` are pairs of a site (of a linear or an embedding) and a scheme's name. ValueError for sites that are not there."""

    schemes: tuple[tuple[str, str], ...] = ()
    name: str = "assign_schemes"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        schemes, found = dict(self.schemes), set()

        def assign(func: relax.Function, log: PassLog) -> relax.Function:
            rewriter = Rewriter(func)

            def visit(var: relax.Var, value: relax.Expr) -> relax.Call | None:
                op = next((op for op in (linear_op, embedding_op) if op.matches(value)), None)
                if op is None:
                    return None
                site = attr(value, "site")
                if site not in schemes:
                    log.missed(site, "no scheme was chosen for it: its weight stays as it is stored")
                    return None
                found.add(site)
                log.matched(f"{site}: {schemes[site]}")
                attrs = {name: value.attrs[name] for name in value.attrs.keys()}  # noqa: SIM118 (not a dict)
                return op(*(rewriter.new(a) for a in value.args), **(attrs | {"scheme": schemes[site]}))

            return rewriter.rebuild(visit)

        out = rewrite_functions(mod, log, assign)
        if absent := schemes.keys() - found:
            raise ValueError(f"schemes are given for sites that the model lacks: {', '.join(sorted(absent))}")
        return out
