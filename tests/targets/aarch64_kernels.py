"""Kernels compiled here for aarch64, and run under qemu by a small program (kernel_runner.cc) with TVM's runtime for aarch64."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from heddle.compiler.native import tvm_files
from heddle.compiler.native.tools import cxx
from heddle.schedules.compat import PrimFunc, ir, tvm
from heddle.schedules.target import TargetProfile
from tests.targets.emulation import emulated

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of the function `name` with arrays, those without dimensions as integers."""

    name: str
    arguments: Sequence[np.ndarray]


def build_runner(folder: Path) -> Path:
    """kernel_runner.cc as a program in `folder`."""
    files, program = tvm_files("aarch64"), folder / "kernel_runner"
    source = Path(__file__).with_name("kernel_runner.cc")
    link = [str(path) for path in files.libraries]
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-isystem", str(files.include)]
    rpath = [f"-Wl,-rpath,{path.parent}" for path in files.libraries]
    subprocess.run(
        [cxx("aarch64"), *flags, str(source), "-o", str(program), "-Wl,--no-as-needed", *link, *rpath], check=True
    )
    return program


def build_library(kernels: Mapping[str, PrimFunc], target: TargetProfile, path: Path) -> None:
    """A shared library of kernels by name."""
    module = ir.IRModule({name: func.with_attr("global_symbol", name) for name, func in kernels.items()})
    compiled = tvm.compile(module, target=target.tvm_target())
    compiled.export_library(str(path), fcompile=tvm.support.cc.cross_compiler(cxx("aarch64")))


def run(program: Path, library: Path, calls: Sequence[Call], cpu: str) -> list[list[np.ndarray]]:
    """The arrays of each call after it, in the order of its arguments; integers as they were."""
    given, results = library.with_suffix(".calls"), library.with_suffix(".results")
    given.write_bytes(struct.pack("<I", len(calls)) + b"".join(map(_call_bytes, calls)))
    done = emulated("aarch64", cpu, program, library, given, results)
    assert done.returncode == 0, f"{program.name} on {cpu} ended with {done.returncode}:\n{done.stderr}"
    left = memoryview(results.read_bytes())
    after = []
    for call in calls:
        arrays = []
        for array in call.arguments:
            size = array.nbytes if array.ndim else 0
            arrays.append(np.frombuffer(left[:size], array.dtype).reshape(array.shape) if array.ndim else array)
            left = left[size:]
        after.append(arrays)
    assert not left, f"{len(left)} bytes of results too many"
    return after


def _call_bytes(call: Call) -> bytes:
    parts = [struct.pack("<I", len(call.name)), call.name.encode(), struct.pack("<I", len(call.arguments))]
    for array in call.arguments:
        if array.ndim == 0:
            parts.append(struct.pack("<Bq", 0, int(array)))
            continue
        kind = struct.pack("<BBBB", 1, _CODES[array.dtype.kind], 8 * array.dtype.itemsize, array.ndim)
        parts += [kind, struct.pack(f"<{array.ndim}q", *array.shape), np.ascontiguousarray(array).tobytes()]
    return b"".join(parts)
