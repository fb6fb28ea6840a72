"""Matchers in the engine: masks bind what is drawn, forced tokens jump ahead, and neither depends on who else is served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.runtime.engine import Engine
from heddle.runtime.errors import HeddleError
from heddle.runtime.null_runner import NullRunner
from heddle.runtime.outputs import CompletionOutput
from heddle.runtime.replay import Replayed, replay
from heddle.runtime.sampling import SamplingParams
from heddle.runtime.structured.grammar import GrammarError
from tests.structured_tools import Hops

from .tokenizers_for_tests import byte_level

VOCAB = 97
SPEC = {"regex": "any"}  # what it is does not matter: the grammar is replaced


def engine_of(compile_spec: Callable[..., Any], trace: Path | None = None, **bounds: Any) -> Engine:
    """An engine on the null device whose grammars are made by `compile_spec`."""
    options = {name: bounds.pop(name) for name in ("preemption", "swap_bytes", "policy") if name in bounds}
    runner = NullRunner(**{"vocab_size": VOCAB, "max_tokens": 48, "max_seqs": 4, "num_pages": 40, **bounds})
    engine = Engine(runner, byte_level(), eos_token_ids=[0, 2], trace=trace, **options)
    assert engine.admission.grammars is not None
    engine.admission.grammars._compile = compile_spec
    return engine


def serve(engine: Engine, requests: list[SamplingParams]) -> dict[str, list[CompletionOutput]]:
    """All results by id; the stream of every sample must be its text."""
    for i, params in enumerate(requests):
        engine.add_request([5, 6, 7, 8 + i % 5] * (i % 3 + 1), params, request_id=str(i))
    found: dict[str, list[CompletionOutput]] = {}
    streams: dict[tuple[str, int], tuple[str, tuple[int, ...]]] = {}
    while engine.has_work:
        for out in engine.step():
            if out.error:
                raise out.error
            text, tokens = streams.get((out.request_id, out.index), ("", ()))
            streams[out.request_id, out.index] = text + out.text, tokens + out.token_ids
            if out.output:
                found[out.request_id] = out.output.outputs
        engine.check_integrity()
    for name, outputs in found.items():
        for out in outputs:
            assert streams[name, out.index] == (out.text, out.token_ids)
    return found


def mixed(count: int, seed: int, **options: Any) -> list[SamplingParams]:
    """Texts with and without a grammar, several samples, stop texts, filters."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        more: dict[str, Any] = {"max_tokens": int(rng.integers(3, 40)), "seed": i, **options}
        more |= [{}, {"n": 2}, {"top_k": 3}, {"repetition_penalty": 1.3}, {"stop": ["e"]}, {"min_tokens": 3}][i % 6]
        made.append(SamplingParams(structured=SPEC if rng.random() < 0.7 else None, **more))
    return made


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1 << 20))
def test_text_does_not_depend_on_the_batch_on_preemption_or_on_chunks(
    tmp_path_factory: pytest.TempPathFactory, preemption: str, seed: int
) -> None:
    requests = mixed(7, seed)
    roomy = serve(engine_of(lambda spec: Hops(VOCAB), max_seqs=16), requests)
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    bounds = {"num_pages": 6, "max_tokens": 7, "max_seqs": 3}
    tight = engine_of(lambda spec: Hops(VOCAB), path, preemption=preemption, swap_bytes=1 << 16, **bounds)
    assert serve(tight, requests) == roomy
    tight.close()
    assert replay(path).difference is None
    for i in (0, 4):
        alone = serve(engine_of(lambda spec: Hops(VOCAB)), [SamplingParams(max_tokens=1)] * i + [requests[i]])
        assert alone[str(i)] == roomy[str(i)]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1 << 20))
def test_forced_tokens_are_those_that_the_model_would_have_to_choose(seed: int) -> None:
    requests = mixed(6, seed)
    jumping, walking = (engine_of(lambda spec, f=f: Hops(VOCAB, f), max_seqs=16) for f in (True, False))
    assert serve(jumping, requests) == serve(walking, requests)


def test_jumping_saves_steps_and_log_probabilities_switch_it_off() -> None:
    params = SamplingParams(structured=SPEC, max_tokens=38, seed=3)
    steps, texts = [], []
    for extra in ({}, {"logprobs": 0}):
        engine = engine_of(lambda spec: Hops(VOCAB, seed=4))
        (out,) = serve(engine, [SamplingParams(**{**vars(params), **extra})])["0"]
        texts.append(out.token_ids)
        steps.append(len(engine.runner.calls))  # type: ignore[attr-defined]
        assert (out.logprobs is None) == (not extra)
    assert texts[0] == texts[1]
    assert steps[1] == len(texts[1]) > 1.3 * steps[0]


def test_log_probabilities_are_those_of_the_model() -> None:
    free, bound = (
        serve(engine_of(lambda spec: Hops(VOCAB)), [SamplingParams(structured=s, max_tokens=1, seed=1, logprobs=20)])[
            "0"
        ][0]
        for s in (None, SPEC)
    )
    assert free.logprobs
    assert bound.logprobs
    (one,), (other,) = free.logprobs, bound.logprobs
    chosen = other[bound.token_ids[0]]
    assert chosen.rank
    assert chosen.rank > 1  # the most likely token was forbidden
    both = one.keys() & other.keys()
    assert len(both) >= 20
    for token in both:
        assert one[token].rank == other[token].rank
        assert one[token].logprob == pytest.approx(other[token].logprob, abs=1e-6)


class Breaking:
    """A grammar whose matcher raises in one of its methods, at one place of the text."""

    def __init__(self, method: str) -> None:
        self.method, self.left, self.finished = method, 3, False

    def matcher(self, end_ids: object) -> Breaking:
        return Breaking(self.method)

    def copy(self) -> Breaking:
        return self

    def _break(self, method: str) -> None:
        if method == self.method and self.left == 0:
            raise GrammarError("the grammar cannot go on")

    def fill(self, row: np.ndarray) -> None:
        self._break("fill")
        row[:] = 0 if self.method == "nothing" and not self.left else -1

    def accept(self, token: int) -> None:
        self._break("accept")
        self.left -= 1

    def forced(self) -> list[int]:
        self._break("forced")
        return []


@pytest.mark.parametrize("method", ["fill", "accept", "forced", "nothing"])
def test_a_grammar_that_cannot_go_on_ends_its_own_request(method: str, tmp_path: Path) -> None:
    engine = engine_of(lambda spec: Breaking(method), tmp_path / "trace")
    for i in range(3):
        params = SamplingParams(structured=SPEC if i == 1 else None, max_tokens=9, ignore_eos=True, seed=i)
        engine.add_request([5, 6, 7 + i], params, request_id=str(i))
    ends: dict[str, Any] = {}
    steps = 0
    while engine.has_work:
        for out in engine.step():
            if out.finished:
                ends[out.request_id] = out.error or out.output
        engine.check_integrity()
        steps += 1
    assert isinstance(ends["1"], HeddleError)
    assert ("no token is left" if method == "nothing" else "cannot go on") in str(ends["1"])
    for i in (0, 2):
        alone = engine_of(lambda spec: Hops(VOCAB))
        alone.add_request([5, 6, 7 + i], SamplingParams(max_tokens=9, ignore_eos=True, seed=i))
        while alone.has_work:
            outputs = alone.step()
        assert outputs[-1].output
        assert ends[str(i)].outputs == outputs[-1].output.outputs
    engine.close()
    assert replay(tmp_path / "trace") == Replayed(steps)
