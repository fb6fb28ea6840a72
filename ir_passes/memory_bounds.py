"""Bound the symbolic dimensions of every instance, so that memory planning allocates its workspace once and statically."""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax, tirx
from .passes import PassLog
from .straightline import name_of


@dataclasses.dataclass(frozen=True)
class MemoryBounds:
    """`max_tokens` rows at most in an `_n` instance; an instance `_R` holds at most R rows. Bounds are hard limits."""

    max_tokens: int
    row_dims: tuple[tuple[str, str], ...] = (("embed", "n"), ("body", "n"), ("head", "r"))
    name: str = "memory_bounds"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        out = ir.IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        row_dims = dict(self.row_dims)
        for gv, func in mod.functions.items():
            if not isinstance(func, relax.Function):
                continue
            log.function = symbol = name_of(gv)
            function, _, rows = symbol.rpartition("_")
            if function not in row_dims:
                log.missed(symbol, "no row dimension is known for it")
                continue
            bound = self.max_tokens if rows == "n" else int(rows)
            func = func.with_attr("tir_var_upper_bound", {row_dims[function]: bound})
            out.update_func(out.get_global_var(symbol), func)
            log.matched(f"{symbol}: {row_dims[function]} <= {bound}")
        return out


ALLOC_STORAGE = ir.Op.get("relax.memory.alloc_storage")


def workspace_bytes(mod: ir.IRModule) -> dict[str, int]:
    """Bytes of planned storage per Relax function of a module after StaticPlanBlockMemory; results are not included."""
    found = {}
    for gv, func in mod.functions.items():
        if isinstance(func, relax.Function):
            calls = [b.value for block in func.body.blocks for b in block.bindings if isinstance(b.value, relax.Call)]
            sizes = [call.args[0].values[0] for call in calls if call.op == ALLOC_STORAGE]
            found[name_of(gv)] = sum(int(size) for size in sizes if isinstance(size, tirx.IntImm))
    return found
