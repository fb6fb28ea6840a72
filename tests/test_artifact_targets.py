"""An artifact for several targets: which library runs, and files of weights by layout."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from heddle.compiler.artifact_writer import ArtifactWriter
from heddle.opening import identity
from heddle.runtime import artifact as artifact_module
from heddle.runtime.errors import ArtifactError
from heddle.runtime.features import architecture
from heddle.runtime.manifest import TargetInfo, TensorInfo, WeightsInfo
from heddle.runtime.tvm import to_numpy
from heddle.runtime.weights import load_weights

from .artifact_tools import edit_manifest, small_manifest
from .test_artifact import SPECS, names, weight


def targets(*needs: tuple[str, str, tuple[str, ...]]) -> tuple[TargetInfo, ...]:
    return tuple(
        TargetInfo(name, arch, features, {"kind": "llvm"}, f"lib/{name}.so", "weights.safetensors")
        for name, arch, features in needs
    )


def test_the_first_target_that_runs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_module, "architecture", lambda: "x86_64")
    given = targets(("arm", "aarch64", ()), ("wide", "x86_64", ("a", "b")), ("narrow", "x86_64", ("a",)))
    for features, expected in (({"a", "b", "c"}, "wide"), ({"a"}, "narrow")):
        monkeypatch.setattr(artifact_module, "cpu_features", lambda features=features: frozenset(features))
        assert artifact_module.choose_target(given).name == expected
        assert artifact_module.choose_target(given, "narrow").name == "narrow"
    monkeypatch.setattr(artifact_module, "cpu_features", lambda: frozenset("b"))
    with pytest.raises(ArtifactError) as caught:
        artifact_module.choose_target(given)
    assert "this machine (x86_64) can run no target of the artifact" in str(caught.value)
    assert "arm needs an aarch64 CPU; wide needs a; narrow needs a" in str(caught.value)
    for name, message in (("wide", "cannot run the target wide"), ("other", "the artifact has no target 'other'")):
        with pytest.raises(ArtifactError, match=message):
            artifact_module.choose_target(given, name)


def test_another_layout_of_weights_has_a_file_by_its_content(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "a") as writer:
        first = writer.write_weights("weights.safetensors", SPECS, weight)
        second = writer.write_weights("weights.safetensors", SPECS, lambda name: weight(name) * 2)
        assert first == "weights.safetensors"
        digest = hashlib.sha256((writer.folder / second).read_bytes()).hexdigest()
        assert second == f"weights-{digest[:12]}.safetensors"
        assert set(names(writer.folder)) == {first, second}


@pytest.fixture
def two_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact whose two targets, which need the flag "a" and none, read different files of weights."""
    monkeypatch.setattr(artifact_module, "cpu_features", lambda: frozenset("a"))
    with ArtifactWriter(tmp_path / "two") as writer:
        files = [writer.write_weights("weights.safetensors", SPECS, lambda n, k=k: weight(n) * k) for k in (1, 2)]
        held, found = {"w": TensorInfo("float16", (8, 8))}, []
        for name, features, file in (("wide", ("a",), files[1]), ("narrow", (), files[0])):
            writer.write_text(f"lib/{name}.so", name)
            found.append(TargetInfo(name, architecture(), features, {"kind": "llvm"}, f"lib/{name}.so", file))
        weights = tuple(WeightsInfo(file, held) for file in files)
        writer.finish(dataclasses.replace(small_manifest(), targets=tuple(found), weights=weights))
    return tmp_path / "two"


def test_a_target_reads_the_weights_of_its_layout(two_layouts: Path) -> None:
    wide, narrow = (artifact_module.open_artifact(two_layouts, target=name) for name in ("native", "narrow"))
    assert (wide.target.name, narrow.target.name) == ("wide", "narrow")
    for artifact, factor in ((wide, 2), (narrow, 1)):
        _, _, tensors = load_weights(artifact)
        np.testing.assert_array_equal(to_numpy(tensors["w"]), weight("w") * factor)
    assert identity(wide) != identity(narrow), "pages that one has computed are not for the other"


def test_files_of_targets_that_do_not_run_are_checked_too(two_layouts: Path) -> None:
    """An artifact is whole or it is not, whatever runs of it here."""
    (two_layouts / "lib" / "narrow.so").write_text("wrong!")
    with pytest.raises(ArtifactError, match=r"lib/narrow\.so does not have the hash"):
        artifact_module.open_artifact(two_layouts)
    (two_layouts / "lib" / "narrow.so").unlink()
    with pytest.raises(ArtifactError, match=r"'lib/narrow\.so', which is missing"):
        artifact_module.open_artifact(two_layouts)


def test_weights_of_every_layout_have_all_parameters(two_layouts: Path) -> None:
    edit_manifest(two_layouts, lambda raw: raw["weights"][1]["tensors"].clear())
    with pytest.raises(ArtifactError, match=r"params names 'w', which manifest\.weights\[1\]\.tensors lacks"):
        artifact_module.open_artifact(two_layouts)
