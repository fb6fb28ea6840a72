"""File systems with the C and C++ libraries and nothing else, and programs run inside of them as the only one there is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from heddle.compiler.native.tools import cxx
from heddle.runtime.features import architecture

LIBRARIES = (
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
    "libgcc_s.so.1",
)
LOADERS = {"x86_64": "/lib64/ld-linux-x86-64.so.2", "aarch64": "/lib/ld-linux-aarch64.so.1"}


def bare_root(folder: Path, arch: str) -> Path:
    """A root with the libraries and the loader of the compiler for `arch`; another architecture's also has its emulator."""
    loader = LOADERS[arch]
    place = folder / "lib" / f"{arch}-linux-gnu"
    place.mkdir(parents=True)
    (folder / loader.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(library(Path(loader).name, arch), folder / loader.lstrip("/"))
    for name in LIBRARIES:
        shutil.copy(library(name, arch), place / name)
    if arch != architecture():
        found = shutil.which(f"qemu-{arch}-static")
        assert found, f"qemu-{arch}-static is not installed (Debian: apt-get install qemu-user-static)"
        shutil.copy(found, folder / "emulator")
    return folder


def library(name: str, arch: str) -> Path:
    """Where the compiler for `arch` finds a library."""
    done = subprocess.run([cxx(arch), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip())
    assert path.is_absolute(), f"{cxx(arch)} does not find {name}"
    return path


def inside(root: Path, arch: str, *command: str, seconds: float = 300) -> subprocess.CompletedProcess[bytes]:
    """Run a program of a root as if that were the machine, without any variable of the environment."""
    emulated = [] if arch == architecture() else ["/emulator", "-cpu", "max"]
    enter = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    chroot = shutil.which("chroot", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert chroot, "chroot is not installed (Debian: apt-get install coreutils)"
    return subprocess.run(
        [*enter, chroot, str(root), *emulated, *command], capture_output=True, env={}, timeout=seconds
    )
