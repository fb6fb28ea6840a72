"""The code of docs/api.md and of the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import ROOT


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["docs/api.md", "README.md"])
def test_code_runs(page: str, tinydoc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.heddle").symlink_to(tinydoc)
    code = "\n".join(blocks(page))
    assert code.count("\n") > 10
    exec(compile(code, page, "exec"), {"__name__": "example"})


def test_every_option_is_documented() -> None:
    from heddle.llm import LLM

    text = (ROOT / "docs" / "api.md").read_text()
    left_out = {"path", "random_weights", "verify", "progress", "unknown", "return"}
    for name in set(LLM.__init__.__annotations__) - left_out:
        assert f"`{name}`" in text, f"docs/api.md does not name LLM's option {name}"
