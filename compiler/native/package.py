"""A directory that runs a model on a machine with nothing but a C and a C++ library: `heddle package`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ... import __version__
from ...runtime.artifact import check_files, check_versions, is_artifact, is_module, read_manifest
from ...runtime.errors import ArtifactError, HeddleError
from ...runtime.manifest import DECODER, Manifest, TargetInfo
from ...schedules.target import PROFILES, resolve_targets
from ..artifact_writer import ArtifactWriter
from ..driver import compile_model
from .readme import readme
from .runner import PROGRAM, Runner, build_runner
from .tvm_files import check_architecture

MODEL, SCRIPT, README = "model", "run.sh", "README.md"
_SCRIPT = """#!/bin/sh
# Runs from any folder, also through a link. The options are those of heddle-run: ./run.sh --help
here=$(dirname -- "$(readlink -f -- "$0")")
exec "$here/bin/heddle-run" "$here/model" "$@"
"""

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Package:
    """A package as it was written: its folder, the targets in it, and its size in bytes by part."""

    path: Path
    arch: str
    targets: tuple[str, ...]
    bytes: dict[str, int]


def package_model(
    model: str | Path,
    output: str | Path,
    *,
    arch: str | None = None,
    targets: Sequence[str] = (),
    progress: Progress | None = None,
    **options: Any,
) -> Package:
    """Write a self-contained directory: program, runtime libraries, artifact, script to run.

    `model` is an artifact, of which the libraries for `arch` (None: this machine's architecture) are taken, or of these those
    that `targets` name; or a checkpoint, which is compiled for them with `options` (those of `compile_model`), for all portable
    ones where none is named. An older package at `output` stays until the new one is whole.
    Raises HeddleError where the model cannot be packaged, the architecture is not in it, or the runner cannot be built, and
    ArtifactError where its files are damaged or it was compiled with another TVM.
    """
    report = progress or (lambda what, done, total: None)
    model, output, arch = Path(model), Path(output).absolute(), check_architecture(arch)
    _check_output(output)
    wanted = target_names(targets, arch)
    if is_artifact(model):
        _check_artifact(model, options)
        artifact = model
    else:
        artifact = compile_model(model, target=wanted, progress=progress, **options)
    manifest = chosen_parts(read_manifest(artifact), artifact, arch, wanted if targets else None)
    check_versions(manifest)  # the runner is built with the TVM that is installed, and refuses others
    check_files(artifact, manifest, whole=True)
    report("building the runner", 0, 1)
    runner = build_runner(arch)
    report("building the runner", 1, 1)
    with _replacing(output) as folder:
        _write(folder, artifact, manifest, runner)
        sizes = {
            p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in folder.iterdir() if p.is_dir()
        }
    return Package(output, arch, tuple(target.name for target in manifest.targets), sizes)


def target_names(targets: Sequence[str], arch: str) -> list[str]:
    """Profiles of `arch` by name: those that `targets` name, or all portable ones. HeddleError for another architecture's."""
    portable = [p.name for p in PROFILES.values() if p.arch == arch and p.portable]
    try:
        named = resolve_targets([name for name in targets if name != "portable"] or portable)
    except ValueError as error:
        raise HeddleError(str(error)) from error
    names = [p.name for p in named] + [name for name in portable if "portable" in targets]
    for profile in named:
        if profile.arch != arch:
            raise HeddleError(
                f"the target {profile.name} is for {profile.arch}, the package for {arch}",
                "a package has one program, which is for one architecture",
                f"give --arch {profile.arch}, or one of: {', '.join(p.name for p in PROFILES.values() if p.arch == arch)}",
            )
    return list(dict.fromkeys(names))


def chosen_parts(manifest: Manifest, path: Path, arch: str, names: Sequence[str] | None) -> Manifest:
    """The manifest of the part of an artifact that is for `arch`, or for the targets called `names`, without its IR.

    HeddleError where it lacks them, or where the native runtime does not serve such models.
    """
    if manifest.model.kind != DECODER:
        raise HeddleError(
            f"{path} is an encoder ({manifest.model.architecture})",
            "the native runtime generates text, which needs a decoder",
            "package a decoder; encoders run in Python (heddle embed, heddle serve)",
        )
    has = {target.name: target for target in manifest.targets if target.arch == arch}
    lacks = [name for name in names or () if name not in has]
    if lacks or not has:
        known = ", ".join(target.name for target in manifest.targets)
        wanted = lacks or [p.name for p in PROFILES.values() if p.arch == arch and p.portable]
        raise HeddleError(
            f"{path} has no library for {', '.join(lacks) or arch}",
            f"it has {known}",
            f"compile again with {' '.join(f'--target {name}' for name in wanted)}, or package the checkpoint",
        )
    kept: tuple[TargetInfo, ...] = tuple(t for t in has.values() if names is None or t.name in names)
    weights = tuple(w for w in manifest.weights if w.file in {t.weights for t in kept})
    others = {t.library for t in manifest.targets} - {t.library for t in kept}
    others |= {w.file for w in manifest.weights} - {w.file for w in weights}
    files = {n: info for n, info in manifest.files.items() if n not in others and not n.startswith("ir/")}
    return dataclasses.replace(manifest, targets=kept, weights=weights, files=files)


def _check_artifact(path: Path, options: dict[str, Any]) -> None:
    if is_module(path):
        raise ArtifactError(
            f"{path} is a compiled torch module",
            "the native runtime generates text, which needs a language model",
            "load it in Python: heddle.load_module",
        )
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise HeddleError(
            f"{path} is an artifact, which has been compiled already",
            f"{', '.join(given)} can be chosen only when a model is compiled",
            "leave them out, or package the checkpoint",
        )


def _check_output(output: Path) -> None:
    older = (output / PROGRAM).is_file() and is_artifact(output / MODEL)
    if output.exists() and not older and not (output.is_dir() and not any(output.iterdir())):
        raise HeddleError(
            f"{output} exists and is not a package", "it will not be overwritten", "choose another output"
        )


@contextlib.contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `output` at the end, unless there is an error."""
    scratch = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    retired = scratch.with_name(f"{scratch.name}-old")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if output.exists():
            output.rename(retired)
        scratch.rename(output)
    except OSError as error:
        raise HeddleError(
            f"the package {output} could not be written", str(error), "free space or choose another output"
        ) from error
    finally:
        if retired.exists() and not output.exists():
            retired.rename(output)
        for folder in (scratch, retired):
            shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, artifact: Path, manifest: Manifest, runner: Runner) -> None:
    with ArtifactWriter(folder / MODEL) as writer:
        for name in manifest.files:
            writer.copy(name, artifact / name)
        writer.finish(manifest)
    for part in ("bin", "lib"):
        shutil.copytree(runner.root / part, folder / part)
    for name, file in runner.licenses.items():
        (folder / "licenses" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / "licenses" / name)
    (folder / SCRIPT).write_text(_SCRIPT)
    (folder / SCRIPT).chmod(0o755)
    (folder / README).write_text(readme(manifest, runner, __version__))
