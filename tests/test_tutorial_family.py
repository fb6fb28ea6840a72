"""docs/tutorial_family.md runs and prints what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heddle.models import ARCHITECTURES
from tests.conftest import ROOT
from tests.sparse.page import run_tutorial

PAGE = ROOT / "docs" / "tutorial_family.md"


def test_the_tutorial_runs_and_prints_what_it_shows(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))
    ((name, text),) = re.findall(r'^```python title="(.*?)"\n(.*?)^```', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    Path(name).write_text(text)
    try:
        found, _ = run_tutorial(PAGE.read_text())
    finally:
        ARCHITECTURES.pop("NemotronForCausalLM", None)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(found)
    assert found == PAGE.read_text()


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE.read_text())
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
