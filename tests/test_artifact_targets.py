"""An artifact for several targets: which library runs, and files of weights by layout."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from heddle.compiler.artifact_writer import ArtifactWriter
from heddle.runtime import artifact as artifact_module
from heddle.runtime.errors import ArtifactError
from heddle.runtime.manifest import TargetInfo

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
