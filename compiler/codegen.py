"""From a lowered module to a shared library: machine code by several threads, then one link."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..ir_passes.pipeline import Lowered
from ..ir_passes.straightline import name_of
from ..runtime.errors import HeddleError
from ..runtime.features import architecture, physical_cores
from ..schedules.compat import PrimFunc, ir, relax, tirx, tvm
from ..schedules.target import TargetProfile, resolve_targets

CODEGEN_THREADS = 4
_LINKERS = ("g++", "c++", "clang++")


def resolve(targets: str | Sequence[str]) -> tuple[TargetProfile, ...]:
    """The profiles of targets by name, the best first; HeddleError where there is none."""
    try:
        return resolve_targets(targets)
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


def linker(profile: TargetProfile) -> str:
    """The C++ compiler that links libraries for a profile: the machine's (CXX), or a cross compiler (HEDDLE_CXX_AARCH64).

    HeddleError where there is none.
    """
    here = profile.arch == architecture()
    variable = "CXX" if here else f"HEDDLE_CXX_{profile.arch.upper()}"
    names = [os.environ.get(variable)] if os.environ.get(variable) else list(_LINKERS if here else ())
    names += [] if here or names else [f"{profile.arch}-linux-gnu-g++"]
    for name in names:
        if name and shutil.which(name):
            return name
    raise HeddleError(
        f"no linker for {profile.name} ({profile.arch})",
        f"looked for {', '.join(map(str, names))}",
        f"install g++{'' if here else f'-{profile.arch}-linux-gnu'}, or set {variable} to a C++ compiler",
    )


def link(executable: relax.VMExecutable, library: Path, profile: TargetProfile, seconds: dict[str, float]) -> Path:
    """A shared library of what `generate_code` made; returns its path."""
    with timed(seconds, "link"):
        executable.export_library(str(library), fcompile=tvm.support.cc.cross_compiler(linker(profile)))
    return library


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the block takes, in all where it runs several times."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
