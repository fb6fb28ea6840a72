"""heddle-run against the Python runtime: the same tokens, text and ends, on 50 prompts and several kinds of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import heddle
from heddle.compiler.driver import compile_model
from tests.conftest import ROOT
from tests.native_tools import ask, by_python, by_runner, heddle_run, prompts

MODEL = ROOT / "examples" / "tinydoc"
ARTIFACTS: dict[str, dict[str, Any]] = {
    "as stored": {},
    "float32, float32 cache": {"dtype": "float32", "kv_dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "w4a8": {"quant": "w4a8"},
    "w8a8, int8 cache": {"quant": "w8a8", "kv_dtype": "int8"},
    "w4a16, few rows": {"quant": "w4a16", "max_tokens": 40, "max_seqs": 3},
}
GREEDY = {"temperature": 0.0, "max_tokens": 64}
SAMPLED: list[dict[str, Any]] = [
    {"temperature": 0.8, "seed": 7, "max_tokens": 32},
    {"temperature": 1.3, "top_p": 0.9, "top_k": 40, "seed": 2**64 - 1, "max_tokens": 24},
    {"temperature": 0.7, "min_p": 0.05, "typical_p": 0.95, "seed": 0, "max_tokens": 24},
    {
        "temperature": 1.0,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "seed": 3,
        "max_tokens": 24,
    },
    {"temperature": 0.0, "repetition_penalty": 1.2, "max_tokens": 48},
    {"temperature": 0.9, "top_k": 1, "seed": 1, "max_tokens": 8},
    {"temperature": 0.6, "seed": 5, "stop": ["the", "\n\n", ". A"], "max_tokens": 48},
    {"temperature": 2.0, "seed": 9, "min_tokens": 20, "max_tokens": 40, "ignore_eos": True},
]
PROMPTS = prompts(50)


@pytest.fixture(scope="module", params=ARTIFACTS)
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model, compiled in several ways."""
    return compile_model(MODEL, tmp_path_factory.mktemp("native") / "model.heddle", **ARTIFACTS[request.param])


@pytest.fixture(scope="module")
def llm(artifact: Path) -> heddle.LLM:
    return heddle.LLM(artifact, threads=2)


def test_fifty_prompts_have_the_greedy_tokens_of_python(artifact: Path, llm: heddle.LLM) -> None:
    expected = by_python(llm, PROMPTS, GREEDY)
    assert by_runner(heddle_run(), artifact, PROMPTS, GREEDY) == expected
    assert len({tuple(tokens) for _, tokens, _, _ in expected}) > 30, (
        "the prompts are too much alike to compare anything"
    )


def test_sampling_has_the_tokens_of_python(artifact: Path, llm: heddle.LLM) -> None:
    for settings in SAMPLED:
        assert by_runner(heddle_run(), artifact, PROMPTS[:12], settings) == by_python(llm, PROMPTS[:12], settings), (
            settings
        )


def test_a_batch_has_the_tokens_of_each_alone(tinydoc: Path) -> None:
    settings = {"temperature": 0.8, "top_p": 0.95, "seed": 11, "max_tokens": 20}
    together = by_runner(heddle_run(), tinydoc, PROMPTS[:20], settings)
    assert together == [by_runner(heddle_run(), tinydoc, [prompt], settings)[0] for prompt in PROMPTS[:20]]


def test_threads_and_a_short_pool_change_no_token(tinydoc: Path) -> None:
    expected = by_runner(heddle_run(), tinydoc, PROMPTS, GREEDY)
    assert by_runner(heddle_run(), tinydoc, PROMPTS, GREEDY, "--threads=1") == expected
    # The longest prompt takes most of this pool: the others wait for pages.
    info = ask(heddle_run(), tinydoc, "--info")
    pages = max(-(-(size + 64) // info["page_tokens"]) for size, _, _, _ in expected)
    short = pages * info["kv_bytes"] // info["num_pages"]
    assert by_runner(heddle_run(), tinydoc, PROMPTS, GREEDY, f"--kv-memory={short}") == expected
    assert ask(heddle_run(), tinydoc, "--info", f"--kv-memory={short}")["num_pages"] == pages


def test_a_library_of_c_finds_the_runtime(tmp_path: Path) -> None:
    path = compile_model(MODEL, tmp_path / "c.heddle", target=["native", "c"])
    expected = by_runner(heddle_run(), path, PROMPTS[:3], GREEDY)
    assert by_runner(heddle_run(), path, PROMPTS[:3], GREEDY, "--target=c") == expected


def test_a_text_ends_where_the_context_does(tinydoc: Path) -> None:
    llm = heddle.LLM(tinydoc, threads=2)
    settings = {"temperature": 0.0, "max_tokens": 100, "ignore_eos": True}
    rng, size = np.random.default_rng(0), llm.runner.info.context_length
    ids = [rng.integers(3, 4096, n).tolist() for n in (size - 1, size - 30)]
    expected = [
        (list(o.outputs[0].token_ids), o.outputs[0].finish_reason)
        for o in llm.generate(ids, heddle.SamplingParams(**settings))
    ]
    texts = [",".join(map(str, one)) for one in ids]
    found = ask(heddle_run(), "--ids", "--temperature=0", "--max-tokens=100", "--ignore-eos", tinydoc, *texts)[
        "outputs"
    ]
    assert [(o["token_ids"], o["finish_reason"]) for o in found] == expected
    assert [len(tokens) for tokens, _ in expected] == [1, 30]
    assert [o["prompt_tokens"] for o in found] == [size - 1, size - 30]


def test_no_seed_is_another_text_each_time(tinydoc: Path) -> None:
    found = ask(heddle_run(), tinydoc, "The", "The", "--temperature=2", "--max-tokens=16")["outputs"]
    again = ask(heddle_run(), tinydoc, "The", "--temperature=2", "--max-tokens=16")["outputs"]
    assert len({tuple(o["token_ids"]) for o in found + again}) == 3
    assert len({o["seed"] for o in found + again}) == 3
    same = ask(heddle_run(), tinydoc, "The", "--temperature=2", "--max-tokens=16", f"--seed={found[1]['seed']}")[
        "outputs"
    ]
    assert same[0]["token_ids"] == found[1]["token_ids"]
