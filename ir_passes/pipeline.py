"""The whole lowering, top to bottom: every phase by name, in order, in one function.

After each phase the module is checked for well-formedness and its text is kept for the artifact.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

from ..schedules.compat import ir, relax, tvm
from ..schedules.target import TargetProfile, profile_scope
from .assign_schemes import AssignSchemes
from .fuse_epilogue import FuseEpilogue
from .fuse_norm import FuseNorm
from .fuse_qkv_append import FuseQkvAppend
from .lift_weights import LiftedWeight, LiftWeights, lifted_weights, weight_params
from .memory_bounds import MemoryBounds, workspace_bytes
from .merge_linears import MergeLinears
from .pack_weights import PackWeights
from .passes import ModulePass, PassLog
from .share_tensors import ShareTensors
from .specialize_rows import SpecializeRows
from .straightline import name_of
from .tag_noalias import TagNoAlias

WITH_KERNELS = ("legalize", "schedule_loops")
"""The phases after which kernels are printed with the module's text: they do not change behind these."""


@dataclasses.dataclass(frozen=True)
class TvmPasses:
    """A phase made of TVM's own passes."""

    name: str
    passes: tuple[Callable[[ir.IRModule], ir.IRModule], ...]

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        for tvm_pass in self.passes:
            mod = tvm_pass(mod)
        return mod


def phases(max_tokens: int, schemes: Mapping[str, str]) -> list[ModulePass]:
    """All phases of the lowering, in order. `schemes` has the quantization scheme of each site that is quantized."""
    return dialect_phases(schemes) + kernel_phases(max_tokens)


def dialect_phases(schemes: Mapping[str, str]) -> list[ModulePass]:
    """Dialect to dialect: how each site is quantized, then fewer and larger ops."""
    return [
        AssignSchemes(tuple(sorted(schemes.items()))),
        MergeLinears(),
        FuseEpilogue(),
        FuseQkvAppend(),
        # One function per row class, weights in the layout that its kernels stream.
        SpecializeRows(),
        PackWeights(),
        FuseNorm(),
        LiftWeights(),
    ]


def kernel_phases(max_tokens: int) -> list[ModulePass]:
    """Dialect to kernels, and what is left to virtual machine code."""
    transform = relax.transform
    return [
        TvmPasses("legalize", (transform.LegalizeOps(), transform.BundleModelParams("weights"))),
        MemoryBounds(max_tokens),
        *virtual_machine(planned=True),
        TagNoAlias(),
    ]


def virtual_machine(*, planned: bool = False) -> list[ModulePass]:
    """Relax to virtual machine code: what relax.build's default does, without its fusion and its schedules.

    Where all memory is `planned` a function gives nothing back before it returns.
    """
    transform = relax.transform
    kills = () if planned else (transform.KillAfterLastUse(),)
    return [
        TvmPasses(
            "lower_calls",
            (
                transform.RewriteDataflowReshape(),
                transform.ToNonDataflow(),
                transform.RemovePurityChecking(),
                transform.CallTIRRewrite(),
            ),
        ),
        TvmPasses("plan_memory", (transform.StaticPlanBlockMemory(),)),
        ShareTensors(),
        TvmPasses(
            "lower_vm",
            (
                transform.LowerAllocTensor(),
                *kills,
                transform.LowerRuntimeBuiltin(),
                transform.ComputePrimValue(),
                transform.VMShapeLower(),
                transform.AttachGlobalSymbol(),
            ),
        ),
    ]


@dataclasses.dataclass
class Lowered:
    """A lowered module with the story of how it came to be."""

    mod: ir.IRModule
    log: PassLog
    texts: list[tuple[str, str]]  # (phase, IR text after it)
    seconds: dict[str, float]
    weights: dict[str, LiftedWeight]
    params: dict[str, list[str]]  # weights of each instance, in call order
    workspace: dict[str, int]  # bytes of each instance


def lower(
    mod: ir.IRModule,
    profile: TargetProfile,
    *,
    max_tokens: int,
    schemes: Mapping[str, str] | None = None,
    keep_texts: bool = True,
) -> Lowered:
    """Lower the exported functions `embed`, `body` and `head` to virtual machine code for one target profile.

    `schemes` names the quantization scheme of each site that has one. Raises RuntimeError naming the phase where the module
    stops being well-formed.
    """
    packed = lower_dialect(mod, profile, schemes=schemes or {}, keep_texts=keep_texts)
    out = lower_kernels(packed, profile, max_tokens=max_tokens, keep_texts=keep_texts)
    return dataclasses.replace(out, seconds=packed.seconds | out.seconds)


def lower_dialect(
    mod: ir.IRModule, profile: TargetProfile, *, schemes: Mapping[str, str], keep_texts: bool = True
) -> Lowered:
    """The first part of `lower`, in which a target counts by the layouts of its matrices alone."""
    return run(mod, profile, dialect_phases(schemes), keep_texts=keep_texts)


def lower_kernels(packed: Lowered, profile: TargetProfile, *, max_tokens: int, keep_texts: bool = True) -> Lowered:
    """The second part of `lower`: what `lower_dialect` gave, for one target. `seconds` are those of this part."""
    return run(packed.mod, profile, kernel_phases(max_tokens), before=packed, keep_texts=keep_texts)


def run(
    mod: ir.IRModule,
    profile: TargetProfile,
    phases: Sequence[ModulePass],
    *,
    before: Lowered | None = None,
    keep_texts: bool = True,
) -> Lowered:
    """Apply phases in order, with the checks and records that `Lowered` has; those of the phases `before` are taken over.

    Raises as `lower` does.
    """
    out = Lowered(mod, PassLog(), [("export", mod.script())] if keep_texts and before is None else [], {}, {}, {}, {})
    if before is not None:
        out.log.records, out.weights, out.params = list(before.log.records), before.weights, before.params
        out.texts = list(before.texts) if keep_texts else []
    log = out.log
    with profile_scope(profile), profile.tvm_target(), tvm.transform.PassContext(opt_level=3):
        for phase in phases:
            start = time.perf_counter()
            log.phase = phase.name
            mod = phase(mod, log)
            check_well_formed(mod, phase.name)
            if isinstance(phase, LiftWeights):
                out.weights = lifted_weights(mod)
                out.params = {name_of(gv): [str(p.name) for p in weight_params(f)] for gv, f in mod.functions.items()}
            if phase.name == "plan_memory":
                out.workspace = workspace_bytes(mod)
            if keep_texts:
                out.texts.append((phase.name, text_of(mod, kernels=phase.name in WITH_KERNELS)))
            out.seconds[phase.name] = time.perf_counter() - start
    out.mod = mod
    return out


def check_well_formed(mod: ir.IRModule, phase: str) -> None:
    """RuntimeError naming the phase if `mod` breaks Relax's rules."""
    try:
        relax.analysis.well_formed(mod)
    except Exception as error:
        raise RuntimeError(
            f"phase {phase} left a module that is not well-formed, a bug in that pass: {error}"
        ) from error


def text_of(mod: ir.IRModule, *, kernels: bool) -> str:
    """The module as TVMScript. Kernels do not change after they are made, so they are printed once."""
    functions = {name_of(gv): f for gv, f in mod.functions.items() if kernels or isinstance(f, relax.Function)}
    return str(ir.IRModule(functions).script())
