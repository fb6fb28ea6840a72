"""`heddle doctor`: what this machine and this installation can do."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import tempfile
from pathlib import Path
from typing import Any

import click

from .doctor_targets import described, examine_targets


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check Python, TVM, CPU, memory and tools. Exits with 1 if something keeps Heddle from working."""
    found, problems = examine()
    if as_json:
        click.echo(json.dumps({**found, "problems": problems}))
    else:
        targets = found.pop("targets")
        for name, value in found.items():
            click.echo(f"{name:14} {value}")
        for name, state in targets.items():
            click.echo(f"{name:16} {described(state)}")
        for problem in problems:
            click.echo(f"problem: {problem}")
        click.echo(f"{len(problems)} problems" if problems else "all well")
    ctx.exit(1 if problems else 0)


def examine() -> tuple[dict[str, Any], list[str]]:
    """The findings by name, and what is wrong."""
    from ..compiler.build_cache import cache_directory
    from ..runtime.features import architecture, cpu_features, physical_cores
    from ..runtime.memory import available_memory, huge_pages_enabled, size_text
    from ..runtime.threads import thread_count

    compiling, problems = examine_targets()
    available, limited_by = available_memory()
    found: dict[str, Any] = {"python": platform.python_version()}
    for package, pin in pins().items():
        installed = _version(package)
        found[package] = installed
        if installed != pin:
            problems.append(f"{package} is {installed}, Heddle needs {pin}: pip install {package}=={pin}")
    found["target"] = compiling["target"]
    known = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "asimd", "asimddp", "i8mm")
    found["cpu"] = f"{architecture()}: {' '.join(f for f in known if f in cpu_features())}"
    found["cores"] = f"{len(physical_cores())} physical, {os.cpu_count()} logical; {thread_count()} threads by default"
    found["memory"] = f"{size_text(available)} available ({limited_by})"
    found["huge pages"] = huge_pages_enabled()
    found["weights"] = probe_mapping(cache_directory())
    if huge_pages_enabled() == "never":
        problems.append("huge pages are off, so weights are read slower: set transparent_hugepage to madvise")
    found["linker"] = compiling["linker"]
    found["runner"] = native_builds()
    found["cache"] = str(cache_directory())
    found["targets"] = compiling["targets"]
    return found, problems


def native_builds() -> str:
    """For which architectures `heddle package` can build the native runner here, and what it lacks for others."""
    from ..compiler.native.tools import missing
    from ..compiler.native.tvm_files import ARCHITECTURES

    said = []
    for arch in ARCHITECTURES:
        lacks = missing(arch)
        install = f"apt-get install {' '.join(sorted(set(lacks.values())))}"
        said.append(f"{arch} lacks {', '.join(lacks)} ({install})" if lacks else f"{arch} can be built")
    return "; ".join(said)


def probe_mapping(folder: Path) -> str:
    """How weights in a file of `folder` would be held: a file like one is written, loaded and removed."""
    from ..runtime.memory import load_file
    from ..runtime.safetensors import WRITE_BYTES

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            probe = Path(scratch) / "probe"
            with probe.open("wb", buffering=0) as file:
                for _ in range(8):
                    file.write(bytes(WRITE_BYTES))
            return str(load_file(probe)[1]).removeprefix("weights ")
    except OSError as error:
        return f"not probed: {error}"


def pins() -> dict[str, str]:
    """Packages that must have exactly one version, from the project's own requirements."""
    requirements = importlib.metadata.requires("heddle") or []
    exact = (re.match(r"([\w-]+)==([\w.]+)$", requirement) for requirement in requirements)
    return {match[1]: match[2] for match in exact if match}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
