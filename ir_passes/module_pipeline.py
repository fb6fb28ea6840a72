"""The lowering of an imported program: linears go to Heddle's kernels, everything else through TVM's operators."""

from __future__ import annotations

from collections.abc import Mapping

from ..runtime.errors import HeddleError
from ..schedules.compat import ir, relax
from .assign_schemes import AssignSchemes
from .lift_weights import LiftWeights
from .pack_weights import PackWeights
from .passes import ModulePass
from .pipeline import TvmPasses, virtual_machine
from .schedule_loops import ScheduleLoops
from .tag_noalias import TagNoAlias


def module_phases(schemes: Mapping[str, str]) -> list[ModulePass]:
    """All phases in order for a module of one function `main` that has gone through RecognizeLinears.

    `schemes` has the quantization scheme of each linear that is quantized.
    """
    transform = relax.transform
    return [
        AssignSchemes(tuple(sorted(schemes.items()))),
        PackWeights(),
        LiftWeights(),
        TvmPasses(
            "legalize",
            (
                relax.backend.DispatchSampling(),
                relax.backend.DispatchSortScan(),
                transform.LegalizeOps(),
                transform.BundleModelParams("weights"),
                check_legal,
            ),
        ),
        # What is left between our kernels: neighbours in one function each, and loops that use vectors and threads.
        TvmPasses(
            "fuse",
            (
                transform.RewriteDataflowReshape(),  # finds reshapes in unscheduled functions only
                transform.AnnotateTIROpPattern(),
                transform.FuseOps(),
                transform.FuseTIR(),
                transform.DeadCodeElimination(["main"]),
            ),
        ),
        ScheduleLoops(),
        *virtual_machine(),
        TagNoAlias(),
    ]


LOWERED = (
    "relax.call_tir",
    "relax.call_tir_inplace",
    "relax.call_pure_packed",
    "relax.call_dps_packed",
    "relax.reshape",
)
"""Operators that the phases behind legalization know what to do with; a reshape becomes a view."""


def check_legal(mod: ir.IRModule) -> ir.IRModule:
    """HeddleError with all operators that TVM has no implementation of for CPUs."""
    calls = [b.value for block in mod["main"].body.blocks for b in block.bindings if isinstance(b.value, relax.Call)]
    left = {str(call.op.name) for call in calls if isinstance(call.op, ir.Op)} - set(LOWERED)
    if left:
        what = f"operators without an implementation for CPUs: {', '.join(sorted(left))}"
        raise HeddleError(what, "TVM knows them by name only", "replace them in the module")
    return mod
