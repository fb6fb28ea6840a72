"""From a lowered module to a shared library: machine code by several threads, then one link."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..ir_passes.pipeline import Lowered
from ..ir_passes.straightline import name_of
from ..runtime.errors import HeddleError
from ..runtime.features import physical_cores
from ..schedules.compat import PrimFunc, ir, relax, tirx, tvm
from ..schedules.target import TargetProfile, resolve_target

CODEGEN_THREADS = 4


def resolve(target: str) -> TargetProfile:
    """The profile of a target by name, HeddleError where there is none."""
    try:
        return resolve_target(target)
    except ValueError as error:
        raise HeddleError(str(error)) from error


def generate_code(
    lowered: Lowered, extra: dict[str, PrimFunc], profile: TargetProfile, seconds: dict[str, float]
) -> relax.VMExecutable:
    """Machine code for a lowered module and `extra` functions beside it. Kernels are compiled by several threads."""
    with timed(seconds, "codegen"):
        target = profile.tvm_target()
        functions = {name_of(gv): func for gv, func in lowered.mod.functions.items()}
        kernels = {name: func for name, func in functions.items() if isinstance(func, PrimFunc)} | extra

        def build(names: list[str]) -> object:
            return tirx.build(ir.IRModule({n: kernels[n].with_attr("global_symbol", n) for n in names}), target=target)

        workers = min(CODEGEN_THREADS, len(physical_cores()))
        with ThreadPoolExecutor(workers) as pool:
            libraries = list(pool.map(build, [list(kernels)[i::workers] for i in range(workers)]))
        rest = ir.IRModule(
            {name: func for name, func in functions.items() if name not in kernels}, attrs=lowered.mod.attrs
        )
        nothing = tvm.transform.Sequential([])  # the module is lowered; the default pipeline would do it again, worse
        return relax.build(rest.with_attr("external_mods", libraries), target=target, relax_pipeline=nothing)


def link(executable: relax.VMExecutable, library: Path, seconds: dict[str, float]) -> None:
    """A shared library of what `generate_code` made."""
    with timed(seconds, "link"):
        executable.export_library(str(library))


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the block takes."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
