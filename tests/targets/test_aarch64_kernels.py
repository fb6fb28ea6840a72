"""Every registered kernel on Arm under qemu: against its reference, and with the bits that this machine gives."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import heddle.ir_passes.sparse.catalog
import heddle.schedules.catalog  # noqa: F401
from heddle.compiler.native.tools import cxx
from heddle.schedules.compat import PrimFunc, tvm
from heddle.schedules.cpu.quant_linear_rows import quant_spec, reference
from heddle.schedules.layouts.rows import ROW_TILE
from heddle.schedules.registry import KERNELS, Case, Kernel
from heddle.schedules.target import PROFILES, VECTOR, TargetProfile, resolve_target
from tests import test_quant_instructions as dots
from tests.cpu_targets import DOTS, assembly
from tests.targets.aarch64_kernels import Call, build_library, build_runner, run
from tests.targets.emulation import CPUS
from tests.test_kernels import argument, largest_error

ARM = [p for p in PROFILES.values() if p.arch == "aarch64" and p.kernels == VECTOR]
# Products and sums of their scheduled loops are contracted by LLVM, which does it differently where vectors differ.
SCHEDULED = ("spmm", "sddmm", "grouped_matmul")
MARCH = {"aarch64-dotprod": "armv8.2-a+dotprod", "aarch64-i8mm": "armv8.2-a+dotprod+i8mm"}
# Directives that the compiler's and the assembler's dialects disagree about.
LEFT_OUT = (".cpu", ".file", ".loc")

POINTS = [
    pytest.param(kernel, target, id=f"{kernel.name}-{target.name}")
    for kernel in KERNELS.values()
    for target in ARM
    # The others are the same code with i8mm and without.
    if target.dots == "sdot" or kernel.name.startswith(DOTS)
]
by_target = pytest.mark.parametrize("target", ARM, ids=lambda p: p.name)


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_runner(tmp_path_factory.mktemp("aarch64"))


def arguments(kernel: Kernel, case: Case) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What a kernel is called with, and the values it should write: inputs in place, then outputs."""
    inputs = kernel.inputs(np.random.default_rng(0), **case.params, **case.sizes)
    wanted = kernel.reference(*[np.copy(a) for a in inputs], **case.params)
    outputs = [np.full_like(w, 77) for w in wanted[len(kernel.inplace) :]]
    scratch = [np.full(shape, np.nan, np.float32) for shape in kernel.scratch(**case.params)]
    return [np.asarray(a) for a in [*inputs, *outputs, *scratch]], list(wanted)


@functools.cache
def here(func: PrimFunc, target: TargetProfile) -> tvm.runtime.Module:
    return tvm.compile(func.with_attr("global_symbol", "main"), target=target.tvm_target())


def run_here(func: PrimFunc, target: TargetProfile, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arrays after the kernel ran on this machine."""
    given = [argument(np.copy(a)) for a in arrays]
    here(func, target)["main"](*given)
    return [a if isinstance(a, np.ndarray) else np.asarray(a) if isinstance(a, int) else a.numpy() for a in given]


@pytest.mark.parametrize(("kernel", "target"), POINTS)
def test_kernel_matches_its_reference_and_this_machine(
    kernel: Kernel, target: TargetProfile, runner: Path, tmp_path: Path
) -> None:
    mine = resolve_target()
    library, names = tmp_path / "kernels.so", [f"case{i}" for i in range(len(kernel.cases))]
    made = {name: kernel.factory(target=target, **case.params) for name, case in zip(names, kernel.cases, strict=True)}
    build_library(made, target, library)
    given = [arguments(kernel, case) for case in kernel.cases]
    calls = [Call(name, arrays) for name, (arrays, _) in zip(names, given, strict=True)]
    results = run(runner, library, calls, CPUS[target.name])
    for case, (arrays, wanted), after in zip(kernel.cases, given, results, strict=True):
        inputs = len(arrays) - len(wanted) + len(kernel.inplace) - len(kernel.scratch(**case.params))
        written = [*kernel.inplace, *range(inputs, inputs + kernel.num_outputs)]
        tolerance = case.tolerance or kernel.tolerance
        for at, want in zip(written, wanted, strict=True):
            error = largest_error(after[at], want)
            assert error <= tolerance.relative, f"{case.params}: value {at} is off by {error:.1e}; {tolerance}"
        for at in set(range(inputs)) - set(kernel.inplace):
            assert after[at].tobytes() == arrays[at].tobytes(), f"{case.params}: input {at} was overwritten"
        if kernel.name in SCHEDULED:
            continue
        local = run_here(kernel.factory(target=mine, **case.params), mine, arrays)
        for at in written:
            assert after[at].tobytes() == local[at].tobytes(), (
                f"{case.params}: value {at} has other bits than {mine.name}"
            )


@by_target
def test_extreme_codes_and_activations_are_exact(target: TargetProfile, runner: Path, tmp_path: Path) -> None:
    made, calls, wanted = {}, [], []
    for name in dots.SCHEMES:
        for tile_rows in dots.KINDS:
            arrays = dots.extremes(name, tile_rows)
            want = reference(quant_spec(dots.K, 20, name, ()), tile_rows, *arrays)[0]
            called = f"k{len(calls)}"
            made[called] = dots.kernel(tile_rows, dots.K, 20, name, target)
            calls.append(Call(called, [*arrays, np.full_like(want, np.nan)]))
            wanted.append((f"{name} {tile_rows}", want))
    build_library(made, target, tmp_path / "extremes.so")
    results = run(runner, tmp_path / "extremes.so", calls, CPUS[target.name])
    for (label, want), after in zip(wanted, results, strict=True):
        np.testing.assert_array_equal(after[-1], want, err_msg=label)


@pytest.mark.parametrize("name", ["quant_linear_rows", "quant_linear_tiles", "attention", "linear", "qkv_append"])
@by_target
def test_an_assembler_for_the_profile_knows_all_instructions(name: str, target: TargetProfile, tmp_path: Path) -> None:
    """LLVM is not the judge of its own output: GNU's assembler is told the profile's extensions and no others."""
    cases = KERNELS[name].cases
    for number, case in enumerate((cases[0], cases[-1])):
        source = tmp_path / f"{number}.s"
        text = assembly(KERNELS[name].factory(target=target, **case.params), target)
        source.write_text("".join(line for line in text.splitlines(True) if not line.lstrip().startswith(LEFT_OUT)))
        command = [cxx("aarch64"), f"-march={MARCH[target.name]}", "-c", str(source), "-o", str(tmp_path / "out.o")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:2000]


def test_the_emulated_cpus_differ_in_what_the_profiles_differ(runner: Path, tmp_path: Path) -> None:
    """A library for i8mm ends on the CPU that the library for dot products runs on: that run shows what the profile needs."""
    params = {"in_features": 64, "out_features": 16, "scheme": "w8a8"}
    case = Case(params, {"n": ROW_TILE})
    kernel = KERNELS["quant_linear_tiles"]
    arrays, _ = arguments(kernel, Case({**params, "epilogue": ()}, case.sizes))
    library = tmp_path / "i8mm.so"
    target = PROFILES["aarch64-i8mm"]
    build_library({"main_kernel": kernel.factory(target=target, **params)}, target, library)
    run(runner, library, [Call("main_kernel", arrays)], CPUS["aarch64-i8mm"])
    with pytest.raises(AssertionError, match=r"ended with (-4|132)"):
        run(runner, library, [Call("main_kernel", arrays)], CPUS["aarch64-dotprod"])
