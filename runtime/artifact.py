"""Opening an artifact: everything that can be wrong with it is found here, before anything of it runs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from .errors import ArtifactError, ManifestError
from .features import architecture, cpu_features
from .json_schema import read_json
from .manifest import MANIFEST_FILE, MODULE, FileInfo, Manifest, TargetInfo, WeightsInfo
from .module_manifest import ModuleManifest
from .tvm import ffi_version, tvm_version

AnyManifest = Manifest | ModuleManifest
ANY = ("native", "portable")
"""Names that leave the choice among an artifact's targets to the machine."""

SMALL_FILE = 64 << 20
"""Bytes; files up to this size are hashed at every opening, larger ones (weights) with verify="full"."""


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An artifact directory that fits this machine and this Heddle; `target` is the one of its targets that runs."""

    path: Path
    manifest: Manifest
    target: TargetInfo

    def file(self, name: str) -> Path:
        """A file of the artifact by its relative path."""
        return self.path / name

    @property
    def weights(self) -> WeightsInfo:
        """The weights that the target reads."""
        return self.manifest.weights_of(self.target)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(info.bytes for info in self.manifest.files.values())


@dataclasses.dataclass(frozen=True)
class ModuleArtifact:
    """The artifact directory of a compiled torch module that fits this machine and this Heddle."""

    path: Path
    manifest: ModuleManifest

    @property
    def target(self) -> TargetInfo:
        """What the library was compiled for."""
        return self.manifest.target

    @property
    def weights(self) -> WeightsInfo:
        """The weights of the module."""
        return self.manifest.weights

    def file(self, name: str) -> Path:
        """A file of the artifact by its relative path."""
        return self.path / name


def is_artifact(path: str | Path) -> bool:
    """Whether a directory looks like an artifact (it has a manifest)."""
    return (Path(path) / MANIFEST_FILE).is_file()


def is_module(path: str | Path) -> bool:
    """Whether an artifact is a compiled torch module's; damaged ones are not."""
    try:
        return bool(read_json(read_text(Path(path))).get("kind") == MODULE)
    except (ManifestError, OSError):
        return False


def open_artifact(path: str | Path, verify: str = "quick", target: str = "native") -> Artifact:
    """Open and check an artifact, to run the best of its targets that this machine can, or the one called `target`.

    Checks the manifest's schema and versions, that this CPU has the required features, and every file's size; hashes files
    up to SMALL_FILE, with verify="full" all. Raises ArtifactError that names the field or file that disagrees.
    """
    path = Path(path)
    text = _manifest_text(path, "compile one: heddle compile MODEL -o model.heddle", verify)
    manifest = Manifest.from_json(text)
    chosen = choose_target(manifest.targets, target)
    _check(path, manifest, verify)
    return Artifact(path, manifest, chosen)


def open_module(path: str | Path, verify: str = "quick") -> ModuleArtifact:
    """Open and check the artifact of a torch module, as `open_artifact` does."""
    path = Path(path)
    text = _manifest_text(path, "compile one: heddle compile-torch file.py:function -o module.heddle", verify)
    manifest = ModuleManifest.from_json(text)
    choose_target((manifest.target,))
    _check(path, manifest, verify)
    return ModuleArtifact(path, manifest)


def _manifest_text(path: Path, fix: str, verify: str) -> str:
    if verify not in ("quick", "full"):
        raise ValueError(f"verify={verify!r}; choose quick or full")
    if not is_artifact(path):
        why = f"it has no {MANIFEST_FILE}" if path.is_dir() else "the path is not a directory"
        raise ArtifactError(f"{path} is not an artifact", why, fix)
    return read_text(path)


def _check(path: Path, manifest: AnyManifest, verify: str) -> None:
    check_versions(manifest)
    check_files(path, manifest, whole=verify == "full")


def read_manifest(path: Path) -> Manifest:
    """The manifest in an artifact directory; ManifestError where it is damaged or of another format version."""
    return Manifest.from_json(read_text(path))


def read_text(path: Path) -> str:
    """The text of the manifest in an artifact directory; ManifestError where it is none."""
    try:
        return (path / MANIFEST_FILE).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path / MANIFEST_FILE} is not text", str(error), "compile again") from error


def check_files(path: Path, manifest: AnyManifest, *, whole: bool = False) -> None:
    """Check every file's size, and the hash of small ones, or of all with `whole`; ArtifactError names the file."""
    for name, info in manifest.files.items():
        _check_file(path, name, info, whole=whole or info.bytes <= SMALL_FILE)


def check_versions(manifest: AnyManifest) -> None:
    """ArtifactError where an artifact was compiled with other versions of TVM than those that are installed."""
    for field, found, mine in (
        ("tvm_version", manifest.tvm_version, tvm_version()),
        ("ffi_version", manifest.ffi_version, ffi_version()),
    ):
        if mine and found != mine:
            package = "apache-tvm" if field == "tvm_version" else "apache-tvm-ffi"
            raise ArtifactError(
                f"manifest.{field} is {found}, installed is {mine}",
                "compiled code and runtime must be of one version",
                f"compile again, or install {package}=={found}",
            )


def choose_target(targets: Sequence[TargetInfo], name: str = "native") -> TargetInfo:
    """The first of `targets` that this machine can run (`native`, or `portable`: several compiled at once), or the one called
    `name`.

    ArtifactError where there is none, with what the machine lacks for each.
    """
    asked = [target for target in targets if name in (*ANY, target.name)]
    if not asked:
        raise ArtifactError(
            f"the artifact has no target {name!r}",
            f"it has {', '.join(target.name for target in targets)}",
            "take one of these, or compile again with this --target",
        )
    lacks = [obstacle(target) for target in asked]
    for target, why in zip(asked, lacks, strict=True):
        if not why:
            return target
    raise ArtifactError(
        f"this machine ({architecture()}) can run no target of the artifact"
        if name in ANY
        else f"this machine ({architecture()}) cannot run the target {name}",
        "; ".join(f"{target.name} needs {why}" for target, why in zip(asked, lacks, strict=True)),
        "compile on this machine, or with a --target that it can run (see heddle doctor)",
    )


def obstacle(target: TargetInfo) -> str:
    """What of a target's needs this machine lacks; empty where it lacks nothing."""
    if target.arch != architecture():
        return f"an {target.arch} CPU"
    return ", ".join(sorted(set(target.features) - cpu_features()))


def _check_file(path: Path, name: str, info: FileInfo, *, whole: bool) -> None:
    file = path / name
    fix = "copy the artifact again, or compile again"
    if not file.is_file():
        raise ArtifactError(f"manifest.files has {name!r}, which is missing", f"looked in {path}", fix)
    size = file.stat().st_size
    if size != info.bytes:
        raise ArtifactError(f"{name} has {size} bytes, manifest.files[{name!r}].bytes is {info.bytes}", "", fix)
    if whole and sha256(file) != info.sha256:
        raise ArtifactError(
            f"{name} does not have the hash of manifest.files[{name!r}].sha256", "its bytes have changed", fix
        )


def sha256(file: Path) -> str:
    """Hex digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
