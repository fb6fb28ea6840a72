"""heddle-run built with the address and undefined behaviour sanitizers, on what it is for and on what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import heddle
from heddle.compiler.driver import compile_model
from tests.conftest import ROOT
from tests.native_tools import ask, by_python, by_runner, call, prompts, sanitized

pytestmark = pytest.mark.timeout(1800)  # the first test builds the program

OPTIONS: list[dict[str, Any]] = [
    {"quant": None},
    {"quant": "w4a8", "kv_dtype": "int8", "max_tokens": 48, "max_seqs": 4},
]
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.0, "max_tokens": 24},
    {
        "temperature": 0.9,
        "top_p": 0.9,
        "top_k": 30,
        "repetition_penalty": 1.1,
        "seed": 4,
        "max_tokens": 20,
        "stop": ["the", "zz"],
    },
]


@pytest.mark.parametrize("options", OPTIONS)
def test_generating_is_clean(options: dict[str, Any], tmp_path: Path) -> None:
    artifact = compile_model(ROOT / "examples" / "tinydoc", tmp_path / "model.heddle", **options)
    llm = heddle.LLM(artifact, threads=2)
    for settings in SETTINGS:
        given = prompts(20)
        assert by_runner(sanitized(), artifact, given, settings) == by_python(llm, given, settings)


def test_the_other_jobs_are_clean(tinydoc: Path) -> None:
    assert call(sanitized(), "--help").returncode == 0
    assert ask(sanitized(), tinydoc, "--info", "--verify")["vocab_size"] == 4096
    assert ask(sanitized(), tinydoc, "--bench=1", "--lengths=600", "--batch=2", "--max-tokens=3")["rounds"] == 1
    assert call(sanitized(), tinydoc, stdin=b"\xff\xfe\xc3( \xf0\x9f").returncode == 0
    assert call(sanitized(), tinydoc, "--max-tokens=2", stdin="x " * 400).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--top-k", "x"], 2, "--top-k"),
        (["--target", "vax", "hi"], 1, "vax"),
        (["--temperature", "nan", "hi"], 1, "temperature"),
        (["--ids", "1,99999"], 1, "99999"),
        (["--ids", "1,-1"], 1, "-1"),
        (["--ids", "1,2,x"], 1, "'x'"),
        (["word " * 4000], 1, "context"),
        (["--kv-memory", "1kB", "hi"], 1, "page"),
        (["--stop", "", "hi"], 1, "stop"),
    ],
)
def test_refusals_are_clean(tinydoc: Path, arguments: list[str], code: int, message: str) -> None:
    done = call(sanitized(), tinydoc, *arguments)
    assert done.returncode == code
    assert done.stderr.startswith("heddle-run: ")
    assert message in done.stderr
    assert "Sanitizer" not in done.stderr
