"""One artifact for all targets of x86-64: the same bits on each that this CPU has, and the commands of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

import heddle
from heddle.runtime.artifact import read_manifest
from heddle.runtime.errors import ArtifactError
from heddle.runtime.features import cpu_features
from heddle.schedules.target import PROFILES, resolve_target
from tests.docs_tools import run_commands
from tests.test_targets import PORTABLE, check_bits


def test_every_target_gives_the_same_bits(everywhere: Path) -> None:
    here = [name for name in PORTABLE if not PROFILES[name].missing_features(cpu_features())]
    check_bits(everywhere, here)
    for name in set(PORTABLE) - set(here):
        with pytest.raises(ArtifactError, match=f"cannot run the target {name}") as caught:
            heddle.LLM(everywhere, target=name)
        assert f"{name} needs {', '.join(PROFILES[name].missing_features(cpu_features()))}" in caught.value.why


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    printed = run_commands("docs/targets/x86-64.md", tmp_path, TVM_NUM_THREADS="2").splitlines()
    manifest = read_manifest(tmp_path / "tinydoc.heddle")
    assert [target.name for target in manifest.targets] == PORTABLE
    assert len(manifest.weights) == 1, "all of them read the same weights"
    listed = [line for line in printed if line.startswith("target ")]
    assert [line.split()[1] for line in listed] == PORTABLE
    (taken,) = (line for line in listed if "taken here" in line)
    assert taken.startswith(f"target {resolve_target().name} (")
    assert printed[-2] == printed[-1] != "", "the two runs agree"
