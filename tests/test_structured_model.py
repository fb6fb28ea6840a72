"""Structured output of the example model: whatever is finished is valid, and compiled masks choose what NumPy's do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle import LLM, SamplingParams, Structured
from heddle.runtime.sampler import Draw, Sampler
from tests.sampler_tools import compiled_sampler
from tests.structured_tools import SchemaMaker

SCHEMAS = 200


@pytest.fixture(scope="module")
def llm(tinydoc: Path) -> LLM:
    return LLM(tinydoc, kv_memory="64MiB", threads=2)


def test_two_hundred_schemas(llm: LLM) -> None:
    schemas = [SchemaMaker(seed).schema() for seed in range(SCHEMAS)]
    kinds = {keyword for schema in schemas for keyword in re.findall(r'"(\w+|\$ref)":', json.dumps(schema))}
    assert kinds >= {
        "$ref",
        "anyOf",
        "oneOf",
        "allOf",
        "prefixItems",
        "pattern",
        "format",
        "multipleOf",
        "enum",
        "maxLength",
    }
    # A small model loves spaces, and lists without end.
    tokens = {token: llm.tokenizer.decode([token]) for token in range(3, 4096)}
    bias = {
        token: 8.0 if "null" in text else -20.0 for token, text in tokens.items() if "null" in text or not text.strip()
    }
    params = [
        SamplingParams(
            structured={"json": schema, "disable_any_whitespace": i % 2 == 0},
            temperature=(0.0, 0.7, 1.0)[i % 3],
            logit_bias=bias,
            seed=i,
            max_tokens=160,
            logprobs=0 if i % 10 == 0 else None,
        )
        for i, schema in enumerate(schemas)
    ]
    outputs = llm.generate(["A record of this kind:\n"] * SCHEMAS, params, progress=False)
    finished = 0
    for schema, output in zip(schemas, outputs, strict=True):
        (completion,) = output.outputs
        assert completion.finish_reason in ("stop", "length")
        if completion.finish_reason == "stop":
            jsonschema.validate(json.loads(completion.text), schema)
            finished += 1
    assert finished > 0.8 * SCHEMAS


def test_a_mixed_batch_gives_what_each_gives_alone(llm: LLM) -> None:
    schema = SchemaMaker(3).schema()
    params = [
        SamplingParams(max_tokens=40, seed=1, structured=structured, **more)
        for structured, more in (
            (None, {}),
            ({"json": schema}, {}),
            ({"regex": r"(\d{4}-\d{2}-\d{2}, ){3}end"}, {"logprobs": 2}),
            ({"choice": ["page", "pages of a table", "cache"]}, {"repetition_penalty": 1.4}),
            ({"json": schema}, {"top_p": 0.8, "n": 2}),
            (None, {"top_k": 5}),
        )
    ]
    prompts = [f"The record number {i} is " for i in range(len(params))]
    together = llm.generate(prompts, params, progress=False)
    for prompt, one, output in zip(prompts, params, together, strict=True):
        (alone,) = llm.generate([prompt], one, progress=False)
        assert alone.outputs == output.outputs


def test_what_is_forced_is_what_would_be_chosen(llm: LLM) -> None:
    """Log probabilities switch jumping off; the masks leave the same tokens."""
    wanted = Structured(json=SchemaMaker(5).schema(), disable_any_whitespace=True)
    found = []
    for logprobs in (None, 0):
        params = SamplingParams(structured=wanted, max_tokens=120, temperature=0, logprobs=logprobs)
        before = llm.metrics.steps
        (output,) = llm.generate(["A record: "], params, progress=False)
        found.append((output.outputs[0].token_ids, output.outputs[0].text, llm.metrics.steps - before))
    assert found[0][:2] == found[1][:2]
    assert found[0][2] < found[1][2]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    temperature=st.sampled_from([0.0, 1.0]),
    penalty=st.sampled_from([1.0, 1.3]),
    logprobs=st.sampled_from([None, 3]),
)
def test_masks_in_the_compiled_sampler(
    seed: int, share: float, temperature: float, penalty: float, logprobs: int | None
) -> None:
    vocab, rng = 1303, np.random.default_rng(seed)
    logits = rng.normal(0, 3, (5, vocab)).astype(np.float32)
    params = SamplingParams(temperature=temperature, repetition_penalty=penalty, logprobs=logprobs, logit_bias={1: 3.0})
    draws, allowed = [], []
    for i in range(5):
        bits = rng.random(-(-vocab // 32) * 32) < share
        mask = None if i == 2 else np.packbits(bits, bitorder="little").view(np.int32)
        allowed.append(set(range(vocab)) if mask is None else set(np.flatnonzero(bits[:vocab]).tolist()))
        draws.append(Draw(params, seed, i, np.array([1, 2], np.int32), 1, mask=mask))
    got, want = (sampler.sample(logits.copy(), draws) for sampler in (compiled_sampler(vocab), Sampler()))
    assert got.tolist() == want.tolist()
    for token, may in zip(got.tolist(), allowed, strict=True):
        assert token in may if may else token == -1
    free = compiled_sampler(vocab).logprobs(logits, got.tolist(), 3) if logprobs and all(allowed) else ()
    for one, other in zip(got.logprobs, free, strict=False):
        assert one
        assert other
        assert (one.logprob, one.rank, one.top_ids.tolist()) == (other.logprob, other.rank, other.top_ids.tolist())
