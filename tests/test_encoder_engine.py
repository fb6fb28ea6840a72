"""The engine with an encoder, on the null device: texts are served whole, and nothing but embeddings is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heddle.runtime.engine import Engine
from heddle.runtime.errors import ContextLengthError, RequestError
from heddle.runtime.null_runner import HIDDEN, NullRunner, history_hidden
from heddle.runtime.plans import PlanSequence
from heddle.runtime.replay import Replayed, replay
from heddle.runtime.sampling import SamplingParams
from heddle.runtime.scheduler import POLICIES, PREEMPTIONS, Limits

from .engine_tools import collect, finish
from .tokenizers_for_tests import byte_level


def encoder(*, bounds: dict[str, int] | None = None, **options: Any) -> Engine:
    """An engine for texts of up to 64 tokens, of which a step takes as many."""
    return Engine(NullRunner(encoder=True, max_tokens=64, num_pages=12, **(bounds or {})), **options)


def expected(tokens: list[int]) -> np.ndarray:
    """All positions see all tokens, which for the null device is what the last one has seen."""
    return np.repeat(history_hidden(np.array(tokens))[-1:], len(tokens), 0)


def steps(engine: Engine) -> list[list[int]]:
    """The lengths of the texts in each step; each is whole."""
    assert isinstance(engine.runner, NullRunner)
    assert all(start == 0 for call in engine.runner.calls for start, _ in call)
    return [[rows for _, rows in call] for call in engine.runner.calls]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("preemption", PREEMPTIONS)
def test_texts_are_served_whole(policy: str, preemption: str, tmp_path: Path) -> None:
    """Any chunk, any policy, more work than the pool has room for; a trace of it can be done again."""
    rng = np.random.default_rng(0)
    for step_tokens in (None, 16, 1):
        trace = tmp_path / f"{step_tokens}.jsonl"
        options: dict[str, Any] = {"policy": policy, "preemption": preemption, "step_tokens": step_tokens}
        engine = encoder(chunk=8, swap_bytes=10000, trace=trace, **options)
        texts = [rng.integers(0, 97, n).tolist() for n in (1, 64, 17, 17, 40, 3, 3, 3, 63, 30)]
        pieces: list[list[np.ndarray]] = [[] for _ in texts]
        for i, text in enumerate(texts):
            tenant = "ab"[i % 2]
            engine.add(engine.prepare_pooling(text, collect(pieces[i]), priority=i % 3, tenant=tenant))
        finish(engine)
        for text, found in zip(texts, pieces, strict=True):
            np.testing.assert_array_equal(np.concatenate(found), expected(text))
        served = steps(engine)
        assert sum(map(len, served)) == len(texts)  # none twice, none in parts
        assert all(len(step) == 1 or sum(step) <= (step_tokens or 64) for step in served)
        assert engine.kv.num_free == engine.kv.num_pages
        engine.close()
        assert replay(trace) == Replayed(len(served))


def test_texts_come_in_order_and_fill_a_step() -> None:
    engine = encoder()
    for n in (30, 30, 4, 4, 60):
        engine.add(engine.prepare_pooling([1] * n, lambda position, states: None))
    finish(engine)
    assert steps(engine) == [[30, 30, 4], [4, 60]]


def test_equal_texts_share_nothing() -> None:
    engine = encoder(prefix_cache=True)
    for tail in (3, 4):
        pieces: list[np.ndarray] = []
        text = [*range(48), tail]
        engine.add(engine.prepare_pooling(text, collect(pieces)))
        finish(engine)
        np.testing.assert_array_equal(np.concatenate(pieces), expected(text))
    assert steps(engine) == [[49], [49]]


def test_what_an_encoder_does_not_do() -> None:
    engine = encoder(tokenizer=byte_level(), bounds={"vocab_size": 4096})
    for params in (None, SamplingParams(max_tokens=1), SamplingParams(structured={"regex": "a"})):
        with pytest.raises(
            RequestError, match=r"(?s)this model is an encoder: it generates no text.*ask for embeddings"
        ):
            engine.prepare([1, 2], params)
    with pytest.raises(RequestError, match=r"this model is an encoder: it has no logits"):
        engine.prepare_scoring([1, 2], lambda position, logits: None)
    assert not engine.has_work


def test_texts_that_are_too_long() -> None:
    receive = collect([])
    with pytest.raises(ContextLengthError, match=r"(?s)the text has 65 tokens; a step takes 64 .*max_tokens=256"):
        encoder().prepare_pooling([1] * 65, receive)
    with pytest.raises(ContextLengthError, match="the context holds 50"):
        encoder(context_length=50).prepare_pooling([1] * 51, receive)
    with pytest.raises(RequestError, match="60 tokens needs 4 pages of the KV cache; the pool has 3"):
        Engine(NullRunner(encoder=True, max_tokens=64, num_pages=3)).prepare_pooling([1] * 60, receive)


def test_a_failed_step_is_undone() -> None:
    engine, failed = encoder(), []
    assert isinstance(engine.runner, NullRunner)
    engine.runner.fail_next = OSError("no power")
    engine.add(engine.prepare_pooling([1] * 40, collect([])))
    pieces: list[np.ndarray] = []
    engine.add(engine.prepare_pooling([2] * 40, collect(pieces)))
    while engine.has_work:
        failed += [out.error for out in engine.step() if out.error]
        engine.check_integrity()
    assert [str(error) for error in failed] == ["no power"]
    assert np.concatenate(pieces).shape == (40, HIDDEN)


@pytest.mark.parametrize("step_tokens", [None, 16])
def test_texts_behind_an_interrupt_are_served_whole_again(step_tokens: int | None) -> None:
    """An interrupt in one text's results leaves the others of its step running, with nothing computed."""

    def interrupted(position: int, states: np.ndarray) -> None:
        raise KeyboardInterrupt

    engine = encoder(chunk=8)
    engine.add(engine.prepare_pooling([1] * 20, interrupted))
    texts = [[2] * 20, [3] * 1, [4] * 20]
    pieces: list[list[np.ndarray]] = [[] for _ in texts]
    for text, found in zip(texts, pieces, strict=True):
        engine.add(engine.prepare_pooling(text, collect(found)))
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    if step_tokens:
        engine.limits = Limits(step_tokens, engine.limits.max_seqs)
    errors = []
    while engine.has_work:
        errors += [out.error for out in engine.step() if out.error]
        engine.check_integrity()
    assert [str(error) for error in errors] == ["request 'request-0' was interrupted"]
    for text, found in zip(texts, pieces, strict=True):
        np.testing.assert_array_equal(np.concatenate(found), expected(text))
    assert steps(engine) == [[20, 20, 1, 20], *([[1, 20, 20]] if step_tokens is None else [[1], [20], [20]])]


def test_the_null_device_takes_what_a_model_takes() -> None:
    """So that the tests above mean something."""
    runner, pages, none = NullRunner(encoder=True), np.zeros(1, np.int32), np.empty(0, np.int32)
    tokens = np.ones(3, np.int32)
    for sequence, rows in (
        (PlanSequence(pages, 0, 3), none),
        (PlanSequence(pages, 1, 3, causal=False), none),
        (PlanSequence(pages, 0, 3, causal=False), np.array([2], np.int32)),
    ):
        with pytest.raises(ValueError, match="a decoder's sequences are causal; an encoder's are not, are whole"):
            runner.forward([sequence], tokens, rows)
    with pytest.raises(ValueError, match="a decoder's sequences are causal"):
        NullRunner().forward([PlanSequence(pages, 0, 3, causal=False)], tokens, none)
