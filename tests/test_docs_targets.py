"""The pages of docs/targets: complete, linked, and without commands that nothing runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heddle.schedules.target import PROFILES

from .conftest import ROOT
from .docs_tools import commands

FOLDER = ROOT / "docs" / "targets"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))
STATES = ("tested", "runs under emulation", "compiles only")


def rows(page: str) -> list[str]:
    return [line for line in (FOLDER / page).read_text().splitlines() if line.startswith("| `")]


def test_every_profile_has_a_row_with_its_state() -> None:
    found = [name for row in rows("README.md") for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert sorted(found) == sorted(PROFILES)
    for row in rows("README.md"):
        assert sum(f"**{state}**" in row for state in STATES) == 1, row


def test_pages_are_linked() -> None:
    table = (FOLDER / "README.md").read_text()
    for page in PAGES:
        assert page == "README.md" or f"]({page})" in table, f"docs/targets/README.md does not link {page}"
    for name in ("README.md", "docs/cli.md", "docs/architecture.md"):
        assert "targets/README.md" in (ROOT / name).read_text(), f"{name} does not link the pages of targets"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", (FOLDER / page).read_text()):
        assert link.startswith("https://") or (FOLDER / link).exists(), f"{page} links {link}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_run_by_a_test(page: str) -> None:
    """The page names the test that runs its commands, which names the page."""
    if not commands(f"docs/targets/{page}"):
        return
    tests = [Path(name) for name in re.findall(r"`(tests/[\w/]+\.py)`", (FOLDER / page).read_text())]
    assert any(page in (ROOT / test).read_text() for test in tests), f"no test that {page} names runs its commands"
