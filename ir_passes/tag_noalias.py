"""Tag every PrimFunc `noalias`, also those that Relax lowering itself adds.

LLVM code generation in TVM 0.27 keeps the aliasing flag of the last declared function for the whole module: one helper
without the tag (the virtual machine's own shape functions) makes every kernel reload what it just stored, at half the speed.
"""

from __future__ import annotations

import dataclasses

from ..schedules.compat import PrimFunc, ir
from .passes import PassLog
from .straightline import name_of

TAG = "tirx.noalias"


@dataclasses.dataclass(frozen=True)
class TagNoAlias:
    """Set the attribute where it is missing."""

    name: str = "tag_noalias"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        out = ir.IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        for gv, func in mod.functions.items():
            if not isinstance(func, PrimFunc):
                continue
            log.function = name_of(gv)
            if func.attrs and func.attrs.get(TAG):
                log.missed(log.function, "already tagged")
                continue
            out.update_func(out.get_global_var(log.function), func.with_attr(TAG, True))
            log.matched(log.function)
        return out
