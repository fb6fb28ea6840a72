"""The whole path on the example model: greedy text against transformers, the Python API, and the build cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import heddle
from heddle.compiler import build_cache, driver
from tests.model_tools import reference_logits, relative_error

MODEL = Path(__file__).parents[1] / "examples" / "tinydoc"
PROMPTS = (
    "The command line option",
    "def main(",
    "To install the package, run",
    "A transaction is",
    "The function returns a pointer to",
)
TOKENS, MARGIN = 64, 1e-3


@pytest.fixture(scope="module")
def llm(tinydoc: Path) -> heddle.LLM:
    return heddle.LLM(tinydoc, threads=2)


def reference_greedy(prompts: list[list[int]]) -> list[tuple[list[int], list[float]]]:
    """transformers' greedy tokens in float32, and the margin between the two best logits at each."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    found = []
    for prompt in prompts:
        tokens, margins = [], []
        given, past = list(prompt), None
        with torch.no_grad():
            for _ in range(TOKENS):
                output = model(torch.tensor([given]), past_key_values=past, use_cache=True)
                past = output.past_key_values
                best = torch.topk(output.logits[0, -1], 2)
                given = [int(best.indices[0])]
                tokens += given
                margins.append(float(best.values[0] - best.values[1]))
        found.append((tokens, margins))
    return found


def test_greedy_tokens_are_those_of_transformers(tinydoc_f32: Path) -> None:
    """Up to the first place where two tokens are nearly tied: from there on the texts may go different ways."""
    llm = heddle.LLM(tinydoc_f32, threads=2)
    prompts = [llm.tokenizer.encode(p) for p in PROMPTS]
    params = heddle.SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    outputs = llm.generate(prompts, params)
    compared = 0
    for output, (tokens, margins) in zip(outputs, reference_greedy(prompts), strict=True):
        sure = next((i for i, margin in enumerate(margins) if margin <= MARGIN), TOKENS)
        assert list(output.outputs[0].token_ids[:sure]) == tokens[:sure]
        compared += sure
    assert compared >= 0.8 * TOKENS * len(PROMPTS)


@pytest.fixture(scope="module")
def tinydoc_f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model with a float32 KV cache."""
    return driver.compile_model(MODEL, tmp_path_factory.mktemp("f32") / "model.heddle", kv_dtype="float32")


def test_run_prints_the_same_text(tinydoc: Path, llm: heddle.LLM) -> None:
    params = heddle.SamplingParams(temperature=0.0, max_tokens=16)
    expected = llm.generate(PROMPTS[0], params)[0].outputs[0].text
    command = [
        sys.executable,
        "-m",
        "heddle.cli",
        "run",
        str(tinydoc),
        PROMPTS[0],
        "--temperature",
        "0",
        "--max-tokens",
        "16",
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert expected.strip() in printed


def test_forward_gives_the_logits_of_every_position(llm: heddle.LLM) -> None:
    rng = np.random.default_rng(0)
    tokens = [rng.integers(3, 4096, n).tolist() for n in (70, 3, 200)]
    logits = llm.forward(tokens)
    for a, b, expected in zip(
        logits, llm.forward(tokens, chunk=7), reference_logits(MODEL, [np.array(t) for t in tokens]), strict=True
    ):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))
        assert relative_error(a, expected) < 5e-3  # the cache holds float16 here


def test_stream_joins_to_the_generated_text(llm: heddle.LLM) -> None:
    params = heddle.SamplingParams(temperature=0.7, top_p=0.9, seed=5, max_tokens=40)
    assert "".join(llm.stream(PROMPTS[2], params)) == llm.generate(PROMPTS[2], params)[0].outputs[0].text


def test_a_batch_gives_what_each_prompt_gives_alone(llm: heddle.LLM) -> None:
    params = heddle.SamplingParams(temperature=0.8, top_k=50, seed=11, max_tokens=24)
    together = llm.generate(list(PROMPTS), params)
    alone = [llm.generate(p, params)[0] for p in PROMPTS]
    assert [o.outputs[0].token_ids for o in together] == [o.outputs[0].token_ids for o in alone]


def test_a_model_directory_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "model"
    shutil.copytree(MODEL, source)
    params = heddle.SamplingParams(temperature=0.0, max_tokens=4)
    first = heddle.LLM(source, threads=2).generate("The", params)[0].outputs[0].text
    monkeypatch.setattr(driver, "_build", lambda *a: pytest.fail("compiled a second time"))
    assert heddle.LLM(source, threads=2).generate("The", params)[0].outputs[0].text == first
    (entry,) = build_cache.entries()
    assert entry.architecture == "LlamaForCausalLM"
