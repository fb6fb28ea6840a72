"""Damaged artifacts are refused by heddle-run with an explanation, never with a crash; looked at by sanitizers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.native_fuzz import DAMAGE, complaint, linked, without_ir
from tests.native_tools import call, heddle_run, sanitized

pytestmark = pytest.mark.timeout(1800)  # the first test builds the program


@pytest.fixture(scope="module")
def artifact(tinydoc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model without the compiler's records, so that what is damaged is what is read."""
    copy = linked(tinydoc, tmp_path_factory.mktemp("fuzz") / "model.heddle")
    without_ir(copy)
    assert call(sanitized(), copy, "The", "--max-tokens=3").returncode == 0
    return copy


def check(program: Path, artifact: Path, kind: str, numbers: range, folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(lambda number: complaint(program, artifact, kind, number, folder), numbers)]
    bad = [text for text in found if text]
    assert not bad, f"{len(bad)} of {len(found)}\n" + "\n".join(bad[:5])


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_artifacts_are_refused(artifact: Path, kind: str, tmp_path: Path) -> None:
    check(sanitized(), artifact, kind, range(100), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", DAMAGE)
def test_thousands_of_damaged_artifacts_are_refused(artifact: Path, kind: str, tmp_path: Path) -> None:
    check(heddle_run(), artifact, kind, range(100, 1600), tmp_path)
    check(sanitized(), artifact, kind, range(1600, 2600), tmp_path)
