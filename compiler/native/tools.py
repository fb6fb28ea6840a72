"""What building native programs needs: compilers, CMake, C libraries, and how to get those of another architecture."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ...runtime.errors import HeddleError
from ...runtime.features import architecture
from ..build_cache import cache_directory
from .tvm_files import kept

PROGRAMS = {"cmake": "cmake", "ninja": "ninja-build", "readelf": "binutils"}
HEADERS = {
    "pcre2.h": "libpcre2-dev",
    "utf8proc.h": "libutf8proc-dev",
    "simdjson.h": "libsimdjson-dev",
    "nettle/sha2.h": "nettle-dev",
}
"""What must be there, by name, with the package of Debian that has it."""

_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
_COMPILERS = ("g++", "c++", "clang++")


def variable(arch: str) -> str:
    """The environment variable that names the C++ compiler for an architecture."""
    return "CXX" if arch == architecture() else f"HEDDLE_CXX_{arch.upper()}"


def cxx(arch: str) -> str:
    """The C++ compiler for an architecture: CXX or this machine's; for another one HEDDLE_CXX_<ARCH> or Debian's cross compiler.

    HeddleError where there is none.
    """
    here = arch == architecture()
    given = os.environ.get(variable(arch))
    names = (given,) if given else _COMPILERS if here else (f"{arch}-linux-gnu-g++",)
    for name in names:
        if shutil.which(name):
            return name
    raise HeddleError(
        f"there is no C++ compiler for {arch}",
        f"looked for {', '.join(names)}",
        f"install g++{'' if here else '-' + arch.replace('_', '-') + '-linux-gnu'}, or set {variable(arch)} to a C++ compiler",
    )


def missing(arch: str) -> dict[str, str]:
    """What building for `arch` lacks here, with Debian's package of each. C libraries of another architecture are fetched."""
    lacks = {name: package for name, package in PROGRAMS.items() if not shutil.which(name)}
    try:
        compiler = cxx(arch)
    except HeddleError:
        here = arch == architecture()
        return lacks | {f"C++ compiler for {arch}": "g++" if here else f"g++-{arch.replace('_', '-')}-linux-gnu"}
    if arch == architecture():
        lacks |= {name: HEADERS[name] for name in missing_headers(compiler)}
    return lacks


def missing_headers(compiler: str) -> list[str]:
    """Headers of HEADERS that a compiler does not find."""
    source = "".join(f"#if !__has_include(<{name}>)\nlacks {name}\n#endif\n" for name in HEADERS)
    done = subprocess.run([compiler, "-E", "-P", "-x", "c++", "-"], input=source, capture_output=True, text=True)
    return list(HEADERS) if done.returncode else re.findall(r"^lacks (\S+)$", done.stdout, re.MULTILINE)


def require(arch: str) -> None:
    """HeddleError with all that building for `arch` lacks."""
    if lacks := missing(arch):
        raise HeddleError(
            f"the native runtime for {arch} cannot be built here: {', '.join(lacks)} missing",
            "it is built from source with CMake, PCRE2, utf8proc, simdjson and nettle",
            f"install them (Debian: apt-get install {' '.join(sorted(set(lacks.values())))})",
        )


def sysroot(arch: str) -> Path:
    """A folder with the C libraries of another architecture: $HEDDLE_SYSROOT_<ARCH>, else Debian's packages in the build cache.

    They are fetched once with apt's own settings; nothing of the system changes. HeddleError where that cannot be.
    """
    variable = f"HEDDLE_SYSROOT_{arch.upper()}"
    if given := os.environ.get(variable):
        folder = Path(given)
        if lacks := [name for name in HEADERS if not (folder / "usr" / "include" / name).is_file()]:
            raise HeddleError(
                f"{variable}={folder} lacks usr/include/{lacks[0]}",
                f"it must hold usr/include and usr/lib/{arch}-linux-gnu of {', '.join(HEADERS.values())}",
                f"unpack these packages of {_DEBIAN[arch]} there, or unset {variable}",
            )
        return folder
    place = cache_directory() / "native" / f"sysroot-{arch}"
    return kept(place, lambda scratch: fetch_debian(scratch, list(HEADERS.values()), arch, variable))


def fetch_debian(folder: Path, packages: Sequence[str], arch: str, variable: str) -> Path:
    """Debian packages of another architecture, and the libraries that these name, unpacked in a folder in `folder`.

    apt gets its own lists and an empty status, so the system's packages and architectures stay as they are.
    """
    for name in ("lists/partial", "cache/archives/partial", "debs", "root"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    settings = {
        "APT::Architecture": _DEBIAN[arch],
        "APT::Architectures": _DEBIAN[arch],
        "APT::Sandbox::User": "",  # its user may not write here
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]

    def run(*command: str) -> str:
        try:
            done = subprocess.run(command, cwd=folder / "debs", capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise HeddleError(
                f"the C libraries for {arch} could not be fetched: {', '.join(packages)}",
                f"{command[0]}: {(said.strip() or 'failed').splitlines()[-1]}",
                f"connect to a mirror of Debian, or unpack the packages into a folder and name it in {variable}",
            ) from error
        return done.stdout

    run("apt-get", "-qq", *options, "update")
    # A -dev package has a link to the shared library, which is in the package that it depends on.
    depends = run("apt-cache", *options, "depends", "--important", *packages)
    shared = re.findall(r"^ +Depends: (lib(?:pcre2-8|utf8proc|simdjson|nettle)[\w.+-]*)$", depends, re.MULTILINE)
    run("apt-get", "-qq", *options, "download", *packages, *shared)
    for deb in sorted((folder / "debs").glob("*.deb")):
        run("dpkg-deb", "--extract", str(deb), str(folder / "root"))
    return folder / "root"
