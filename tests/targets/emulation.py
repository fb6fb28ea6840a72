"""Programs under qemu's user emulation, as CPUs that this machine does not have."""

from __future__ import annotations

import os
import shutil
import subprocess

SYSROOTS = {"x86_64": "/", "aarch64": "/usr/aarch64-linux-gnu"}
CPUS = {"aarch64-dotprod": "neoverse-n1", "aarch64-i8mm": "max"}
"""A CPU that has what a target needs and, of the dot products, nothing beyond it."""


def emulated(arch: str, cpu: str, *command: object, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command, whose program is one for `arch`, as on a `cpu`; AssertionError where the emulator is not installed."""
    emulator = shutil.which(f"qemu-{arch}-static")
    assert emulator, f"qemu-{arch}-static is not installed (Debian: apt-get install qemu-user-static)"
    # Which kernels NumPy's OpenBLAS takes is for the emulated CPU to say.
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run(
        [emulator, "-cpu", cpu, "-L", SYSROOTS[arch], *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    done.stderr = "\n".join(line for line in done.stderr.splitlines() if "TCG doesn't support" not in line)
    return done
