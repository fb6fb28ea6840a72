"""heddle-run for an architecture: built from the sources in runtime/native, once for each state of them, into the build cache."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from ... import __version__
from ...runtime.errors import HeddleError
from ...runtime.features import architecture
from ..build_cache import cache_directory
from .tools import cxx, require, sysroot
from .tvm_files import TvmFiles, check_architecture, kept, tvm_files, versions

PROGRAM = Path("bin", "heddle-run")
LIBRARY = Path("lib", "libheddle_cli.so")  # opened by the program
_SYSTEM = re.compile(r"(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux[\w-]*)\.so\.\d+")
"""Libraries that every Linux with C++ programs has: they belong to the system and are not shipped."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """The program and the libraries that it needs beyond the system's, in folders as they are shipped.

    `root` has bin/heddle-run and lib/*.so, `licenses` the texts that go with them, by the names to ship them under.
    """

    arch: str
    root: Path
    licenses: dict[str, Path]

    @property
    def program(self) -> Path:
        """The executable."""
        return self.root / PROGRAM

    @property
    def libraries(self) -> tuple[Path, ...]:
        """The shared libraries beside it, in `lib`."""
        return tuple(sorted((self.root / "lib").glob("*.so*")))

    @functools.cached_property
    def needs(self) -> dict[str, str]:
        """What the system's libraries must provide at least: versions by the name of the symbols' set."""
        newest: dict[str, tuple[int, ...]] = {}
        for file in (self.program, *self.libraries):
            for name, version in re.findall(r"Name: (GLIBC|GLIBCXX)_([\d.]+) ", read_elf(file, "-V")):
                newest[name] = max(newest.get(name, ()), tuple(map(int, version.split("."))))
        return {name: ".".join(map(str, version)) for name, version in sorted(newest.items())}


def sources() -> Path:
    """The folder of the native runtime's sources, which are part of the installed package."""
    spec = importlib.util.find_spec(f"{__package__.partition('.')[0]}.runtime")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if (Path(folder) / "native" / "CMakeLists.txt").is_file():
            return Path(folder) / "native"
    raise HeddleError(
        "the sources of the native runtime are missing", "heddle/runtime/native was not found", "reinstall"
    )


def build_runner(arch: str | None = None) -> Runner:
    """heddle-run for `arch` (x86_64 or aarch64; None: this machine's), found in the build cache or built into it (a minute).

    Raises HeddleError with all that is missing, and with the compiler's messages where building fails.
    """
    arch = check_architecture(arch)
    require(arch)
    tvm = tvm_files(arch)
    place = cache_directory() / "native" / f"runner-{arch}-{_key(arch, tvm)}"
    kept(place, lambda scratch: _build(arch, tvm, scratch))
    return Runner(arch, place, licenses(tvm))


def licenses(tvm: TvmFiles) -> dict[str, Path]:
    """The licenses of all that a runner has in it."""
    files = importlib.metadata.files(__package__.partition(".")[0]) or ()
    own = {f"heddle/{file.name}": Path(str(file.locate())) for file in files if file.name == "LICENSE"}
    return own | {file.name: file for file in sorted((sources() / "licenses").glob("*.txt"))} | tvm.licenses


def configure_options(arch: str, tvm: TvmFiles) -> list[str]:
    """What CMake is told to build for `arch`, beside folders."""
    options = {
        "TVM_FFI_ROOT": tvm.ffi_root,
        "TVM_ROOT": tvm.tvm_root,
        "HEDDLE_TVM_VERSION": versions()["apache-tvm"],
        "HEDDLE_FFI_VERSION": versions()["apache-tvm-ffi"],
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_INSTALL_LIBDIR": "lib",
    }
    if arch == architecture():
        options["CMAKE_CXX_COMPILER"] = shutil.which(cxx(arch)) or cxx(arch)
    else:
        options |= {
            "CMAKE_TOOLCHAIN_FILE": sources() / "cmake" / "linux-cross.cmake",
            "HEDDLE_ARCH": arch,
            "HEDDLE_SYSROOT": sysroot(arch),
            "HEDDLE_CXX": cxx(arch),
        }
    return [f"-D{name}={value}" for name, value in options.items()]


def _build(arch: str, tvm: TvmFiles, scratch: Path) -> Path:
    """Configure, build and install; returns the folder with bin/heddle-run and lib/."""
    build, whole, root = scratch / "build", scratch / "whole", scratch / "root"
    cores = str(len(os.sched_getaffinity(0)))
    options = configure_options(arch, tvm)
    _run(["cmake", "-S", str(sources()), "-B", str(build), "-G", "Ninja", *options], "configured")
    _run(["cmake", "--build", str(build), "--parallel", cores], "built")
    _run(["cmake", "--install", str(build), "--prefix", str(whole), "--strip"], "installed")
    (root / "lib").mkdir(parents=True)
    (root / PROGRAM).parent.mkdir()
    shutil.copy2(whole / PROGRAM, root / PROGRAM)
    shutil.copy2(whole / LIBRARY, root / LIBRARY)
    folders = [whole / "lib", *(library.parent for library in tvm.libraries)]
    for file in (root / PROGRAM, root / LIBRARY):
        collect(file, root / "lib", folders, arch)
    return root


def collect(program: Path, destination: Path, folders: list[Path], arch: str) -> None:
    """Copy the libraries that a program needs, and those that these need, unless every system has them."""
    waiting, seen = needed(program), set()
    while waiting:
        name = waiting.pop()
        if name in seen or _SYSTEM.fullmatch(name):
            continue
        seen.add(name)
        found = find_library(name, folders, arch)
        shutil.copy2(found, destination / name)  # under the name that programs ask for, as a file and no link
        waiting += needed(found)


def find_library(name: str, folders: list[Path], arch: str) -> Path:
    """A shared library in `folders`, or where the compiler for `arch` finds it."""
    places = list(folders)
    if arch != architecture():
        places.append(sysroot(arch) / "usr" / "lib" / f"{arch}-linux-gnu")
    for folder in places:
        if (folder / name).is_file():
            return folder / name
    said = subprocess.run([cxx(arch), f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if said and Path(said).is_absolute():
        return Path(said)
    raise HeddleError(f"{name} was not found", f"the native runtime for {arch} is linked with it", "install it again")


def needed(file: Path) -> list[str]:
    """Names of the shared libraries that an ELF file asks for."""
    return re.findall(r"\(NEEDED\).*\[(.+)\]", read_elf(file, "-d"))


def read_elf(file: Path, option: str) -> str:
    """What readelf, which knows all architectures, says of a file."""
    return subprocess.run(["readelf", "--wide", option, str(file)], capture_output=True, text=True, check=True).stdout


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise HeddleError(
            f"the native runtime could not be {what}",
            "\n".join(done.stdout.strip().splitlines()[-30:]),
            f"mend what the messages name, or set CXX to another compiler; the sources are in {sources()}",
        )


def _key(arch: str, tvm: TvmFiles) -> str:
    """What the program is made of: sources, compiler and what the environment tells it, TVM, this file."""
    compiler = cxx(arch)
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    told = [os.environ.get(name, "") for name in ("CXXFLAGS", "LDFLAGS", f"HEDDLE_SYSROOT_{arch.upper()}")]
    parts = [__version__, arch, compiler, said, *told, str(versions()), str(tvm.ffi_root), str(tvm.tvm_root)]
    digest = hashlib.sha256("\n".join(parts).encode() + Path(__file__).read_bytes())
    for file in sorted(p for p in sources().rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(sources())} ".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
