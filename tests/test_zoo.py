"""Every family against transformers: random weights in float32, ragged prefill, then steps that mix chunks and single tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from heddle.models import ARCHITECTURES
from tests.zoo import CASES
from tests.zoo.case import Case
from tests.zoo.compare import compare
from tests.zoo.table import read_results, render, write_result

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- decoders: written by tests/test_zoo.py -->", "<!-- end of decoders -->"


def _marked() -> list[object]:
    """The first case of each architecture runs by default, unless it is slow."""
    seen: set[str] = set()
    params = []
    for case in CASES:
        marks = [pytest.mark.slow] if case.slow or case.architecture in seen else []
        seen.add(case.architecture)
        params.append(pytest.param(case, id=case.name, marks=marks))
    return params


@pytest.mark.parametrize("case", _marked())
def test_family_agrees_with_transformers(case: Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    result = compare(case, tmp_path)
    if request.config.getoption("--update-golden"):
        write_result(case, result)
    assert result.error < 1e-4
    assert result.compared > 16
    assert result.equal == result.compared


def test_every_decoder_has_three_cases() -> None:
    decoders = {name for name, found in ARCHITECTURES.items() if found.kind == "decoder"}
    counts = Counter(case.architecture for case in CASES)
    assert {name: count for name, count in counts.items() if count < 3} == {}
    assert decoders <= set(counts)


def test_the_table_of_the_documentation(request: pytest.FixtureRequest) -> None:
    """After `--update-golden` of all cases in one process (`-n 0`), this writes the table anew."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    expected = f"{before}{BEGIN}\n{render(CASES, read_results())}{END}{after}"
    if request.config.getoption("--update-golden"):
        PAGE.write_text(expected)
    assert text == expected or request.config.getoption("--update-golden")
