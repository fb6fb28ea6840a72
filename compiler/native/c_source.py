"""C that TVM has written, as a shared library: compiled so that it gives the bits of the profiles with vectors."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...runtime.errors import HeddleError
from ...runtime.features import physical_cores

HEADER = """
#include <stdint.h>
typedef _Float16 half;  // a macro would hit variables of that name
// Every source defines these two: weak, they are one. Nobody calls the second, which stands for a source's only function.
extern void* __tvm_ffi__library_ctx __attribute__((weak));
int32_t __tvm_ffi_main(void*, void*, int32_t, void*) __attribute__((weak));
"""
FLAGS = (
    *("-std=gnu11", "-O2", "-fPIC", "-w"),
    "-ffp-contract=off",  # fused multiply-adds are spelled out
    *("-fwrapv", "-fno-strict-aliasing"),  # integers wrap, and bits are read as other types, as in LLVM
)


def compile_c(compiler: str, output: str, files: Sequence[str], options: Sequence[str] = (), **_: object) -> None:
    """Compile C sources and link them with objects, as TVM's `export_library` asks for it; `options` name include folders.

    `compiler` is a C++ compiler that takes `-x c` (g++, clang++). HeddleError with its message where it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        header = Path(scratch) / "heddle.h"
        header.write_text(HEADER)

        def made(item: tuple[int, str]) -> str:
            number, file = item
            if not file.endswith(".c"):
                return file
            target = f"{scratch}/{number}.o"
            _run([compiler, *FLAGS, *options, "-include", str(header), "-x", "c", "-c", file, "-o", target])
            return target

        with ThreadPoolExecutor(len(physical_cores())) as pool:
            objects = list(pool.map(made, enumerate(files)))
        _run([compiler, "-shared", "-s", *objects, "-o", output, "-lm"])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines()]
        said = [line for line in lines if "error:" in line and not line.startswith("collect2")] or lines
        raise HeddleError(
            f"{command[0]} cannot compile the model's C source",
            "; ".join(said)[:500] or f"exit status {done.returncode}",
            "set CXX to g++ 12, clang++ 15 or later (the source needs the type _Float16)",
        )
