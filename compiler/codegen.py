"""From a lowered module to a shared library: an object file of every kernel, made by several threads, then one link."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..ir_passes.pipeline import Lowered
from ..ir_passes.straightline import name_of
from ..runtime.errors import HeddleError
from ..runtime.features import physical_cores
from ..schedules.compat import PrimFunc, ir, relax, tirx, tvm
from ..schedules.target import PROFILES, SIMT, TargetProfile, resolve_targets
from .native.c_source import compile_c
from .native.tools import cxx, variable

CODEGEN_THREADS = 4
LINK_OPTIONS = ("-s",)
"""Without debug information and local symbols, a third of a library; the kernels keep their names."""


@dataclasses.dataclass(frozen=True)
class Library:
    """A shared library, and the seconds from the order to the last kernel and from there to the library."""

    path: Path
    codegen: float
    link: float


def resolve(targets: str | Sequence[str]) -> tuple[TargetProfile, ...]:
    """The profiles of targets by name, the best first; HeddleError where there is none, or where it has kernels alone."""
    try:
        profiles = resolve_targets(targets)
    except ValueError as error:
        raise HeddleError(str(error)) from error
    for profile in profiles:
        if profile.kernels == SIMT:
            raise HeddleError(
                f"models are not compiled for {profile.name} yet",
                "it has the kernels, but no memory plan, weights or cache on a device",
                f"choose one of: {', '.join(p.name for p in PROFILES.values() if p.kernels != SIMT)}",
            )
    return profiles


@contextmanager
def code_threads() -> Iterator[ThreadPoolExecutor]:
    """The threads that generate code. What they have not begun when the block ends is given up."""
    pool = ThreadPoolExecutor(min(CODEGEN_THREADS, len(physical_cores())))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def build_library(
    lowered: Lowered, extra: Mapping[str, PrimFunc], profile: TargetProfile, path: Path, pool: ThreadPoolExecutor
) -> Future[Library]:
    """Order the library of a lowered module, with `extra` functions beside it, at `path`; the folder takes its object files.

    The link is queued behind the kernels and waits for those that are still being compiled.
    """
    start = time.perf_counter()
    target = profile.tvm_target()
    functions = {name_of(gv): func for gv, func in lowered.mod.functions.items()}
    kernels = {name: func for name, func in functions.items() if isinstance(func, PrimFunc)} | dict(extra)
    rest = ir.IRModule({n: f for n, f in functions.items() if n not in kernels}, attrs=lowered.mod.attrs)

    def compile_one(name: str, func: PrimFunc) -> tuple[tvm.runtime.Module, str]:
        code = tirx.build(ir.IRModule({name: func.with_attr("global_symbol", name)}), target=target)
        file = str(path.with_suffix(f".{name}.{'c' if code.kind == 'c' else 'o'}"))
        code.write_to_file(file)
        return code, file

    made = [pool.submit(compile_one, name, func) for name, func in kernels.items()]

    def link() -> Library:
        objects = [future.result() for future in made]
        compiled = time.perf_counter()
        nothing = tvm.transform.Sequential([])  # the module is lowered; the default pipeline would do it again, worse
        # One module by itself, so that the executable imports a library; the others are objects of the same library.
        whole = rest.with_attr("external_mods", [code for code, _ in objects[:1]])
        executable = relax.build(whole, target=target, relax_pipeline=nothing)
        compiler = linker(profile)
        toolchain = tvm.support.cc.cross_compiler(compiler, options=list(LINK_OPTIONS))
        if profile.kind == "c":
            toolchain = functools.partial(compile_c, compiler)
        try:
            executable.export_library(str(path), fcompile=toolchain, addons=[file for _, file in objects[1:]])
        except RuntimeError as error:  # TVM's, with all that the linker said and the whole command
            said = str(error).partition("\nCommand line:")[0].strip().splitlines()
            raise HeddleError(
                f"{compiler} cannot link the library for {profile.name}",
                "; ".join(line.strip() for line in said[1:4]) or "it says nothing",
                f"set {variable(profile.arch)} to a C++ compiler for {profile.arch}",
            ) from error
        return Library(path, compiled - start, time.perf_counter() - compiled)

    return pool.submit(link)


def linker(profile: TargetProfile) -> str:
    """The C++ compiler that links libraries for a profile: the machine's (CXX), or a cross compiler (HEDDLE_CXX_AARCH64).

    HeddleError where there is none.
    """
    return cxx(profile.arch)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the block takes, in all where it runs several times."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
