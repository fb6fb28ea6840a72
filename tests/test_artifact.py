"""Artifacts: every way in which one can be unusable is found at opening, and writing leaves a whole one or none."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heddle.compiler import artifact_writer
from heddle.compiler.artifact_writer import ArtifactWriter
from heddle.compiler.driver import compile_model
from heddle.compiler.weights import WeightWriter
from heddle.ir_passes.lift_weights import LiftedWeight
from heddle.models import Parameters, RandomCheckpoint, WeightSpec
from heddle.runtime import artifact as artifact_module
from heddle.runtime.artifact import is_artifact, open_artifact
from heddle.runtime.errors import ArtifactError, ManifestError
from heddle.runtime.manifest import FORMAT_VERSION, Manifest
from heddle.runtime.memory import load_file
from heddle.runtime.safetensors import WRITE_BYTES, read_header

from .artifact_tools import copy_artifact, edit_manifest, flip_byte, small_manifest


@pytest.fixture
def damaged(tinydoc: Path, tmp_path: Path) -> Path:
    """A copy of the compiled example."""
    return copy_artifact(tinydoc, tmp_path)


def refused(path: Path, kind: type[ArtifactError] = ArtifactError, **options: str) -> str:
    with pytest.raises(kind) as caught:
        open_artifact(path, **options)
    return str(caught.value)


def library(path: Path) -> str:
    """The file of the library that this machine runs."""
    return open_artifact(path).target.library


# ------------------------------------------------------------------------------------------------------------ opening
def test_opens(tinydoc: Path) -> None:
    for verify in ("quick", "full"):
        opened = open_artifact(str(tinydoc), verify=verify)
        assert opened.bytes == sum(f.stat().st_size for f in tinydoc.rglob("*") if f.is_file()) - (
            (tinydoc / "manifest.json").stat().st_size
        )
        assert opened.file(opened.target.library) == tinydoc / "lib" / f"{opened.target.name}.so"
    with pytest.raises(ValueError, match="verify='fast'; choose quick or full"):
        open_artifact(tinydoc, verify="fast")


def test_not_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in ((tmp_path, "it has no manifest.json"), (tmp_path / "file", "the path is not a directory")):
        text = refused(path)
        assert f"{path} is not an artifact" in text
        assert why in text
        assert "heddle compile" in text
    assert "the path is not a directory" in refused(tmp_path / "missing")


def test_damaged_manifests(damaged: Path) -> None:
    file = damaged / "manifest.json"
    whole = file.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"\xff\xfe\0" + whole, b"\x7fELF"):
        file.write_bytes(data)
        assert "compile again" in refused(damaged, ManifestError)


def test_other_format_version(damaged: Path) -> None:
    edit_manifest(damaged, lambda raw: raw.update(format_version=99))
    assert f"manifest.format_version is 99, this Heddle reads {FORMAT_VERSION}" in refused(damaged, ManifestError)


@pytest.mark.parametrize(
    ("field", "package"), [("tvm_version", "apache-tvm==0.9.1"), ("ffi_version", "apache-tvm-ffi==0.9.1")]
)
def test_other_library_versions(damaged: Path, field: str, package: str) -> None:
    edit_manifest(damaged, lambda raw: raw.update({field: "0.9.1"}))
    text = refused(damaged)
    assert f"manifest.{field} is 0.9.1, installed is " in text
    assert f"install {package}" in text


def test_another_cpu(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = open_artifact(damaged).target
    features = frozenset(target.features)
    with monkeypatch.context() as patch:
        patch.setattr(artifact_module, "cpu_features", lambda: features - {min(features)})
        text = refused(damaged)
    assert "can run no target of the artifact" in text
    assert f"{target.name} needs {min(features)}" in text
    assert "--target" in text
    edit_manifest(damaged, lambda raw: raw["targets"][0]["features"].extend(["quantum", "amx_future"]))
    assert f"{target.name} needs amx_future, quantum" in refused(damaged)
    edit_manifest(damaged, lambda raw: raw["targets"][0].update(arch="riscv64"))
    assert f"{target.name} needs an riscv64 CPU" in refused(damaged)


def test_files_are_listed_in_order(tinydoc: Path) -> None:
    names = list(open_artifact(tinydoc).manifest.files)
    assert names == sorted(names)  # whichever thread wrote its file first


def test_missing_files(damaged: Path, tinydoc: Path) -> None:
    for name in open_artifact(tinydoc).manifest.files:
        (damaged / name).unlink()
        assert f"manifest.files has {name!r}, which is missing" in refused(damaged)
        shutil.copy(tinydoc / name, damaged / name)
    open_artifact(damaged)


@pytest.mark.parametrize("name", ["lib", "weights.safetensors", "config.json"])
def test_other_sizes(damaged: Path, name: str) -> None:
    name = library(damaged) if name == "lib" else name
    file = damaged / name
    size = file.stat().st_size
    for new in (size - 1, 0, size + 1):
        os.truncate(file, new)
        assert f"{name} has {new} bytes, manifest.files[{name!r}].bytes is {size}" in refused(damaged)


@pytest.mark.parametrize("name", ["lib", "weights.safetensors", "tokenizer.json", "ir/passes.json"])
@pytest.mark.parametrize("position", [0, 100, -1])
def test_flipped_bytes(damaged: Path, name: str, position: int) -> None:
    name = library(damaged) if name == "lib" else name
    flip_byte(damaged / name, position)
    assert f"{name} does not have the hash of manifest.files[{name!r}].sha256" in refused(damaged, verify="full")


def test_large_files_are_hashed_on_request(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = library(damaged)
    flip_byte(damaged / "weights.safetensors", -1)
    flip_byte(damaged / lib, -1)
    size = (damaged / "weights.safetensors").stat().st_size
    assert lib in refused(damaged)  # the library is always hashed: it is going to run
    flip_byte(damaged / lib, -1)
    monkeypatch.setattr(artifact_module, "SMALL_FILE", size - 1)
    open_artifact(damaged)
    assert "weights.safetensors does not have the hash" in refused(damaged, verify="full")


# ------------------------------------------------------------------------------------------------------------ writing
SPECS = [("w", "float16", (8, 8))]


def weight(name: str) -> np.ndarray:
    return np.arange(64, dtype=np.float16).reshape(8, 8)


def write(
    destination: Path,
    *,
    note: str = "new",
    produce: Callable[[str], np.ndarray] = weight,
    manifest: Manifest | None = None,
) -> None:
    with ArtifactWriter(destination) as writer:
        writer.write_text("lib/test.so", note)
        writer.write_text("ir/00-first.py", "# deep\n")
        writer.write_weights("weights.safetensors", SPECS, produce)
        writer.finish(manifest or small_manifest())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(params=[False, True], ids=["fresh", "replacing"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A place to write to; what is there before a failure must be there after it, and nothing else."""
    path = tmp_path / "model.heddle"
    if request.param:
        write(path, note="old")
    yield path
    assert names(tmp_path) <= {"model.heddle"}
    assert path.exists() == request.param
    if request.param:
        assert (open_artifact(path, verify="full").path / "lib/test.so").read_text() == "old"


def test_written_and_opened(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / "model.heddle"
    write(path)
    opened = open_artifact(path, verify="full")
    assert set(opened.manifest.files) == {"lib/test.so", "ir/00-first.py", "weights.safetensors"}
    assert dataclasses.replace(opened.manifest, files={}) == dataclasses.replace(small_manifest(), files={})
    data, _ = load_file(path / "weights.safetensors")
    np.testing.assert_array_equal(read_header(path / "weights.safetensors")["w"].view(data), weight("w"))
    write(path, note="newer")
    assert (open_artifact(path, verify="full").path / "lib/test.so").read_text() == "newer"
    assert names(path.parent) == {"model.heddle"}


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with ArtifactWriter(tmp_path / "a") as writer:
        writer.write_weights("weights.safetensors", SPECS, weight, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert not names(tmp_path)  # without `finish` there is no artifact


def test_copies_hold_one_piece(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(2 * WRITE_BYTES + 5)
    (tmp_path / "source").write_bytes(content)
    with ArtifactWriter(tmp_path / "a") as writer:
        writer.copy("lib/test.so", tmp_path / "source")
        writer.write_weights("weights.safetensors", SPECS, weight)
        writer.finish(small_manifest())
    assert (tmp_path / "a" / "lib/test.so").read_bytes() == content
    open_artifact(tmp_path / "a", verify="full")


class Crash(Exception):
    pass


@pytest.mark.parametrize("kind", [Crash, KeyboardInterrupt, SystemExit])
def test_exceptions_leave_nothing(destination: Path, kind: type[BaseException]) -> None:
    def fail(name: str) -> np.ndarray:
        raise kind

    with pytest.raises(kind):
        write(destination, produce=fail)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_disk_full(destination: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The disk takes half of the write number `after`; the last one is the manifest's."""
    count = 0

    def write_some(write: Callable[[Any], int], piece: memoryview) -> None:
        nonlocal count
        count += 1
        if count > after:
            write(piece[: len(piece) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert write(piece) == len(piece)

    with monkeypatch.context() as patch:
        patch.setattr(artifact_writer, "write_all", write_some)
        with pytest.raises(ArtifactError, match="No space left on device") as caught:
            write(destination)
    assert "free space or choose another output; nothing was left behind" in str(caught.value)


@pytest.mark.parametrize("renames", [0, 1, 2])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError(errno.EIO, "Input/output error")])
def test_interrupted_while_moving_into_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int, kind: Any
) -> None:
    """At any moment of the replacement: afterwards there is the old artifact or the new one, whole, and nothing else."""
    path = tmp_path / "model.heddle"
    write(path, note="old")
    real, count = Path.rename, 0

    def rename(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count - 1 == renames:
            raise kind
        return real(self, target)

    def sync(folder: Path) -> None:
        if folder == tmp_path and renames == 2:
            raise kind

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr(artifact_writer, "_sync_directory", sync)
        with pytest.raises((KeyboardInterrupt, ArtifactError)):
            write(path)
    assert names(tmp_path) == {"model.heddle"}
    expected = "new" if renames == 2 else "old"
    assert (open_artifact(path, verify="full").path / "lib/test.so").read_text() == expected


def test_a_manifest_that_could_not_be_read_is_not_written(destination: Path) -> None:
    manifest = small_manifest()
    wrong = dataclasses.replace(manifest.model, vocab_size=1.5)  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match="vocab_size must be int"):
        write(destination, manifest=dataclasses.replace(manifest, model=wrong))


LIMITED = """
import resource, sys
from pathlib import Path
from tests.test_artifact import write
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
try:
    write(Path(sys.argv[1]), note="x" * 1000)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_real_limit(destination: Path) -> None:
    """The kernel refuses to write more than 200 bytes to a file, in the middle of a piece."""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(destination)], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ArtifactError")
    assert "File too large" in done.stdout


def test_what_is_not_an_artifact_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("precious", "file"):
        with pytest.raises(ArtifactError, match="exists and is not an artifact"):
            ArtifactWriter(tmp_path / name)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "x"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert is_artifact(tmp_path / "empty")
    with pytest.raises(ArtifactError, match="cannot be written"), ArtifactWriter(tmp_path / "file" / "below"):
        pass
    assert names(tmp_path) == {"precious", "file", "empty"}


def test_an_interrupted_compilation(destination: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_model(Path(__file__).parents[1] / "examples" / "tinydoc", destination, progress=interrupt)


def test_weights_are_written_with_little_memory(tmp_path: Path) -> None:
    """Merged, converted and packed: beside the pieces of the file, at most twice the largest stored tensor is held."""
    rows, columns, layers = 1000, 2048, 3
    recipe = {
        "op": "heddle.pack_weight",
        "attrs": {"layout": "tile32", "parts": 2},
        "args": [{"op": "concat", "attrs": {}, "args": [{"source": "gate"}, {"source": "up"}]}],
    }
    shape = (2 * -(-rows // 32), columns, 32)
    lifted = {f"gate+up.{i}": LiftedWeight("float16", shape, recipe) for i in range(layers)}
    specs = {p: WeightSpec((p,), (rows, columns), "linear") for p in ("gate", "up")}
    checkpoint = RandomCheckpoint(specs, 0, "float16")
    held = {p: checkpoint.read(p).astype(np.float32) for p in ("gate", "up")}  # as a mapped file would: not counted
    checkpoint.read = held.__getitem__  # type: ignore[method-assign]
    names = {"gate": "gate", "up": "up"}
    weights = WeightWriter(lifted, Parameters(specs, names, checkpoint), dict.fromkeys(names, "float16"))
    stored = 2 * math.prod(shape)
    tracemalloc.start()
    try:
        with ArtifactWriter(tmp_path / "a") as writer:
            writer.write_weights("weights.safetensors", weights.specs, weights.produce)
            _, peak = tracemalloc.get_traced_memory()
            size = (writer._scratch / "weights.safetensors").stat().st_size
    finally:
        tracemalloc.stop()
    assert size >= layers * stored
    assert stored < peak < 2 * stored + WRITE_BYTES + (1 << 20)
