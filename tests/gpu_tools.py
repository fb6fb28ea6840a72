"""Kernels for GPUs on a machine without one: CUDA source compiled as C++ for threads that are fibers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heddle.schedules.compat import PrimFunc, tirx, tvm
from heddle.schedules.registry import KERNELS, Case, Kernel
from heddle.schedules.target import TargetProfile

SHIM = Path(__file__).with_name("cuda_shim.h")
_KERNEL = re.compile(r'^extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\) \{', re.MULTILINE)

Point = tuple[str, Kernel, Case]
"""A case of a kernel, with a name."""


def points(names: Sequence[str] = ()) -> list[Point]:
    """All cases of kernels, or the first one of those that are named."""
    chosen = [(KERNELS[name], KERNELS[name].cases[:1]) for name in names] or [(k, k.cases) for k in KERNELS.values()]
    return [(f"{kernel.name}_{i}", kernel, case) for kernel, cases in chosen for i, case in enumerate(cases)]


def primfunc(point: Point, target: TargetProfile) -> PrimFunc:
    """The kernel of a point."""
    name, kernel, case = point
    return kernel.factory(target=target, **case.params).with_attr("global_symbol", name)


def built(some: Sequence[Point], target: TargetProfile) -> Any:
    """A module with the kernels of several points, and the source for their device."""
    return tirx.build(tvm.IRModule({point[0]: primfunc(point, target) for point in some}), target=target.tvm_target())


def device_source(module: Any) -> str:
    """The source of the kernels alone."""
    (imported,) = list(module.imports)
    return str(imported.inspect_source())


def _called(name: str, parameters: str) -> str:
    """C++ that calls a kernel as TVM's runtime does: its arguments, then the numbers of blocks and threads."""
    given = []
    for i, parameter in enumerate(parameters.split(",") if parameters else []):
        kind, pointer, _ = re.fullmatch(r"\s*(\w+)(\*?)(?: __restrict__)? (\w+)", parameter).groups()  # type: ignore[union-attr]
        union = "pointer" if pointer else "real" if kind in ("float", "double") else "number"
        given.append(f"({kind}{pointer})a[{i}].{union}")
    count = len(given)
    return (
        f'extern "C" int __tvm_ffi_{name}(void*, const shim::Any* a, int n, shim::Any*) {{\n'
        f"  if (n != {count + 2}) return -1;\n"
        f"  shim::launch(a[{count}].number, a[{count + 1}].number, [=] {{ {name}({', '.join(given)}); }});\n"
        "  return 0;\n}\n"
    )


def on_fibers(module: Any, folder: Path) -> Any:
    """`module` with its CUDA kernels replaced by the same source for this CPU; `backwards` and `diverged` beside them."""
    source = device_source(module)
    kernels = source[source.index('extern "C" __global__') :]
    found = _KERNEL.findall(kernels)
    code = f'#include "{SHIM}"\n{kernels}\n' + "".join(_called(*kernel) for kernel in found)
    code += (
        'extern "C" int __tvm_ffi_backwards(void*, const shim::Any* a, int, shim::Any*) {\n'
        "  shim::backwards = a[0].number != 0;\n  return 0;\n}\n"
        'extern "C" int __tvm_ffi_diverged(void*, const shim::Any*, int, shim::Any* result) {\n'
        "  *result = {1, 0, {shim::diverged}};\n  return 0;\n}\n"
    )
    file, library = folder / "kernels.cc", folder / "kernels.so"
    file.write_text(code)
    flags = ("-O0", "-shared", "-fPIC", "-w", "-mfma", "-mf16c", "-ffp-contract=off", "-fwrapv", "-fno-strict-aliasing")
    subprocess.run(["g++", *flags, str(file), "-o", str(library)], check=True)
    loaded = tvm.runtime.load_module(str(library))
    module.clear_imports()
    module.import_module(loaded)
    return loaded


def results(main: Any, point: Point, device: Any = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What a kernel writes, and what its reference says."""
    _, kernel, case = point
    inputs = kernel.inputs(np.random.default_rng(0), **case.params, **case.sizes)
    wanted = kernel.reference(*[np.copy(a) for a in inputs], **case.params)
    outputs = [np.full_like(w, 77) for w in wanted[len(kernel.inplace) :]]
    scratch = [np.full(shape, np.nan, np.float32) for shape in kernel.scratch(**case.params)]

    def argument(array: np.ndarray) -> object:
        return int(array) if np.ndim(array) == 0 else tvm.runtime.tensor(array, device=device or tvm.cpu())

    arguments = [argument(a) for a in [*inputs, *outputs, *scratch]]
    main(*arguments)
    written = [arguments[i] for i in kernel.inplace] + arguments[len(inputs) : len(inputs) + len(outputs)]
    return [tensor.numpy() for tensor in written], list(wanted)  # type: ignore[attr-defined]
