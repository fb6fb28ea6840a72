"""Stage I to stage II: a program over logical coordinates becomes one ordinary s_tir PrimFunc.

    check → add_fills → (per iteration) groups → accesses → loops and blocks → check_extents

What comes out is plain s_tir: schedules act on it block by block (`<iteration>`, outer blocks `<iteration>_o0`, ..., the row block
of a fused group `<first iteration>_row`), and `decompose_inits` is the last of their steps.
"""

from __future__ import annotations

from ....schedules.compat import PrimFunc
from ..iteration import Program
from .check import check
from .check_extents import check_extents
from .emit import emit
from .fills import add_fills


def lower(program: Program) -> PrimFunc:
    """The PrimFunc of a program; SparseError where the program is wrong or asks for what is not there."""
    check(program)
    func = emit(add_fills(program))
    check_extents(func)
    return func
