"""lm-eval against the server: the whole way when slow, else what is made of its results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from heddle import LLM
from heddle.compiler.build_cache import cache_directory
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # where a script finds its neighbours

import harness


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_lm_eval_finds_what_the_model_says(tinydoc: Path) -> None:
    figures, problems = harness.run(tinydoc, cache_directory() / "environments")
    assert not problems, figures


def test_cases_are_tasks_and_differences_are_told(
    tinydoc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "DOCS", 3)
    cases = harness.make_cases(LLM(tinydoc, threads=1))
    assert len(cases) == 3
    assert all(case.text and max(case.logprobs) < 0 and case.choices[0] != case.choices[1] for case in cases)
    harness.write_tasks(cases, tmp_path)
    assert len((tmp_path / "cases.jsonl").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "heddle_choice.yaml").read_text())["output_type"] == "multiple_choice"
    right = sum(case.logprobs.index(max(case.logprobs)) == case.answer for case in cases) / 3
    results = {"heddle_choice": {"acc,none": right}, "heddle_text": {"exact_match,none": 1.0}}
    logprobs = [list(case.logprobs) for case in cases]
    figures, problems = harness.compare(cases, results, logprobs)
    assert problems == []
    assert figures["accuracy"] == right
    logprobs[0][0] += 0.1
    results = {"heddle_choice": {"acc,none": right + 0.1}, "heddle_text": {"exact_match,none": 0.9}}
    _, problems = harness.compare(cases, results, logprobs)
    assert len(problems) == 3
