"""Bound the symbolic dimensions of every instance, so that memory planning allocates its workspace once and statically."""

from __future__ import annotations

import dataclasses

from ..schedules.compat import ir, relax
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
