"""TVM's runtime libraries and headers for an architecture: those installed here, or those of its wheels.

Compiled code, headers and runtime libraries are of one version, so the versions are always those that are installed here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...runtime.errors import HeddleError
from ...runtime.features import architecture
from ..build_cache import SCRATCH, cache_directory, lock

PACKAGES = {"apache-tvm": "tvm", "apache-tvm-ffi": "tvm_ffi"}
"""Distributions by the folders that they install."""

ARCHITECTURES = ("x86_64", "aarch64")
_WANTED = re.compile(
    r"tvm/lib/libtvm_runtime\.so|tvm_ffi/lib/libtvm_ffi\.so|tvm_ffi/include/.*\.h"
    r"|tvm/(LICENSE|NOTICE|licenses/.*)|[^/]*\.dist-info/licenses/.*|tvm_ffi/3rdparty/.*LICENSE"
)
_LICENSE = re.compile(
    r"(?:apache_(tvm|tvm_ffi)-[^/]*\.dist-info/licenses|(tvm|tvm_ffi)(?:/3rdparty)?)/((?:.*/)?(?:LICENSE|NOTICE)[^/]*)"
)


@dataclasses.dataclass(frozen=True)
class TvmFiles:
    """What of TVM a native program is built with and needs when it runs.

    `ffi_root` and `tvm_root` are laid out as the packages `tvm_ffi` and `tvm`: `include/` and `lib/`. `licenses` has the texts that
    go with the libraries, by the names to ship them under.
    """

    arch: str
    ffi_root: Path
    tvm_root: Path
    licenses: dict[str, Path]

    @property
    def libraries(self) -> tuple[Path, Path]:
        """libtvm_ffi.so and libtvm_runtime.so: load or link them in this order."""
        return self.ffi_root / "lib" / "libtvm_ffi.so", self.tvm_root / "lib" / "libtvm_runtime.so"

    @property
    def include(self) -> Path:
        """The folder of headers, among them dlpack's."""
        return self.ffi_root / "include"


def tvm_files(arch: str | None = None) -> TvmFiles:
    """TVM's files for `arch` (x86_64 or aarch64; None: this machine's).

    Those of another architecture come from $HEDDLE_TVM_<ARCH> (a folder with the two wheels, or with what they hold), else
    from the package index, once, into the build cache. Raises HeddleError where they cannot be had.
    """
    arch = check_architecture(arch)
    variable = f"HEDDLE_TVM_{arch.upper()}"
    if given := os.environ.get(variable):
        return _of_folder(arch, Path(given), variable)
    if arch == architecture():
        return _installed(arch)
    place = cache_directory() / "native" / f"tvm-{'-'.join(versions().values())}-{arch}"
    return _unpacked(arch, kept(place, lambda scratch: _unpack(_download(arch, scratch, variable), scratch)))


def check_architecture(arch: str | None) -> str:
    """`arch`, or this machine's; HeddleError where there is no runtime for it."""
    arch = architecture() if arch is None else arch
    if arch not in ARCHITECTURES:
        raise HeddleError(
            f"there is no native runtime for {arch!r}",
            "TVM's wheels and the build files know others",
            f"choose one of: {', '.join(ARCHITECTURES)}",
        )
    return arch


def versions() -> dict[str, str]:
    """The installed versions of TVM's distributions; HeddleError where one is not installed."""
    try:
        return {name: importlib.metadata.version(name) for name in PACKAGES}
    except importlib.metadata.PackageNotFoundError as error:
        raise HeddleError(
            f"the package {error.name} is not installed",
            "native programs are built with the TVM that compiled the model",
            "pip install heddle",
        ) from error


@contextlib.contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold the lock of a place in the cache, whose parent is made; HeddleError where the cache cannot be written."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        held = lock(place.parent, place.name)
    except OSError as error:
        raise HeddleError(
            f"the build cache {place.parent} cannot be written", str(error), "set HEDDLE_CACHE to a folder that can"
        ) from error
    with held:
        yield


def kept(place: Path, make: Callable[[Path], Path]) -> Path:
    """`place` in the cache, marked as used now. Where it is not there, `make` is given a scratch folder and returns what in it
    becomes `place`: there is all of it afterwards, or nothing."""
    with locked(place):
        if not place.is_dir():
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=f"{place.name}{SCRATCH}") as scratch:
                shutil.move(make(Path(scratch)), place)
        os.utime(place)
    return place


def _installed(arch: str) -> TvmFiles:
    versions()
    roots: dict[str, Path] = {}
    licenses: dict[str, Path] = {}
    for name, folder in PACKAGES.items():
        distribution = importlib.metadata.distribution(name)
        roots[folder] = Path(str(distribution.locate_file(folder)))
        licenses |= _licenses(
            {str(file): Path(str(distribution.locate_file(file))) for file in distribution.files or ()}
        )
    return _checked(TvmFiles(arch, roots["tvm_ffi"], roots["tvm"], licenses))


def _licenses(files: dict[str, Path]) -> dict[str, Path]:
    """Those of `files` (by their paths in a wheel) that are licenses, as `tvm/LICENSE`, `tvm/licenses/...`."""
    matches = {name: match for name in sorted(files) if (match := _LICENSE.fullmatch(name))}
    return {f"{match[1] or match[2]}/{match[3]}": files[name] for name, match in matches.items()}


def _of_folder(arch: str, folder: Path, variable: str) -> TvmFiles:
    """The files in a folder that the user names: unpacked, or as wheels (then unpacked into the cache)."""
    if (folder / "tvm_ffi").is_dir() and (folder / "tvm").is_dir():
        return _unpacked(arch, folder)
    expected = [wheel_pattern(name, version, arch) for name, version in versions().items()]
    wheels = [file for pattern in expected for file in folder.glob(pattern)]
    if len(wheels) != len(PACKAGES):
        raise HeddleError(
            f"{variable}={folder} has no TVM for {arch}",
            "it must hold the folders tvm and tvm_ffi, or exactly one wheel of each",
            f"put {' and '.join(expected)} there",
        )
    stamp = "-".join(str(int(wheel.stat().st_mtime)) for wheel in wheels)
    place = cache_directory() / "native" / f"tvm-{'-'.join(versions().values())}-{arch}-{stamp}"
    return _unpacked(arch, kept(place, lambda scratch: _unpack(wheels, scratch)))


def wheel_pattern(name: str, version: str, arch: str) -> str:
    """What the file of a wheel is called, as a pattern."""
    return f"{name.replace('-', '_')}-{version}-*{arch}.whl"


def _download(arch: str, folder: Path, variable: str) -> list[Path]:
    """Fetch the wheels with pip, as the user has set it up."""
    pins = [f"{name}=={version}" for name, version in versions().items()]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, "--platform", f"manylinux_2_28_{arch}", *pins]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise HeddleError(
            f"the wheels of TVM for {arch} could not be fetched ({', '.join(pins)})",
            ((done.stderr or done.stdout).strip() or f"pip ended with {done.returncode}").splitlines()[-1],
            f"connect to a package index, or name a folder that holds the two wheels in {variable}; elsewhere: pip download "
            f"--no-deps --only-binary=:all: --platform manylinux_2_28_{arch} {' '.join(pins)}",
        )
    return sorted(folder.glob("*.whl"))


def _unpack(wheels: Sequence[Path], scratch: Path) -> Path:
    """What is wanted of the wheels, in a folder in `scratch`."""
    folder = scratch / "unpacked"
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            wanted = [n for n in archive.namelist() if _WANTED.fullmatch(n) and not n.endswith("/")]
            archive.extractall(folder, wanted)
    return folder


def _unpacked(arch: str, folder: Path) -> TvmFiles:
    licenses = _licenses({str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()})
    return _checked(TvmFiles(arch, folder / "tvm_ffi", folder / "tvm", licenses))


def _checked(files: TvmFiles) -> TvmFiles:
    for needed in (*files.libraries, files.include / "tvm" / "ffi" / "c_api.h"):
        if not needed.is_file():
            raise HeddleError(
                f"{needed} is missing",
                f"a native program for {files.arch} needs it",
                "install apache-tvm and apache-tvm-ffi again",
            )
    return files
