"""The last check: a caller decides every extent of a lowered program by the shapes of what it passes."""

from __future__ import annotations

from ....schedules.compat import PrimFunc, ir, s_tir, tirx
from ..errors import SparseError
from ..expr import free_vars, walk


def check_extents(func: PrimFunc) -> None:
    """SparseError for an extent that is the length of no parameter: m + 1 alone does not tell m."""
    shapes = [extent for param in func.params if tirx.is_buffer_var(param) for extent in param.ty.shape]
    known = {*func.params, *(extent for extent in shapes if isinstance(extent, ir.Var))}
    blocks: list[s_tir.SBlock] = []
    walk(func.body, s_tir.SBlock, blocks.append)
    known |= {v.var for block in blocks for v in block.iter_vars}
    used = {*tirx.analysis.undefined_vars(func.body, list(func.params)), *(v for s in shapes for v in free_vars(s))}
    if unknown := sorted(str(v.name) for v in used - known):
        raise SparseError(
            f"nothing that {func.attrs['global_symbol']} is called with has {unknown[0]} as a length",
            "extents are read from the shapes of parameters",
            f"pass a tensor that is {unknown[0]} long in some dimension, or make the extent a number",
        )
