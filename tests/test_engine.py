"""The engine on a runner that computes nothing: whatever the mixture, every request gets the tokens it gets alone."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.runtime.engine import Engine
from heddle.runtime.errors import HeddleError, RequestError
from heddle.runtime.null_runner import NullRunner, history_logits
from heddle.runtime.outputs import RequestOutput, StepOutput
from heddle.runtime.sampling import SamplingParams

from .engine_tools import collect, completion, expected_tokens, finish
from .tokenizers_for_tests import byte_level

GREEDY = SamplingParams(temperature=0)
TOKENIZER = byte_level()


params_of_all_kinds = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([0.6, 1.0]),
    seed=st.integers(0, 2**64 - 1),
    max_tokens=st.integers(1, 40),
)
arrival = st.tuples(
    st.integers(0, 15), st.lists(st.integers(0, 96), min_size=1, max_size=80), params_of_all_kinds, st.integers(1, 64)
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(arrival, min_size=1, max_size=7),
    st.integers(1, 70),
    st.integers(1, 5),
    st.integers(8, 20),
)
def test_any_mixture_gives_the_tokens_of_each_request_alone(
    arrivals: list[tuple[int, list[int], SamplingParams, int]], max_tokens: int, max_seqs: int, num_pages: int
) -> None:
    """Random arrivals, chunks, bounds, and pools so small that requests are preempted; every prompt is scored too."""
    engine = Engine(NullRunner(max_tokens=max_tokens, max_seqs=max_seqs, num_pages=num_pages))
    arrivals = sorted(arrivals, key=lambda a: a[0])
    done: dict[str, RequestOutput] = {}
    scores: dict[str, list[np.ndarray]] = {}
    names: list[str] = []
    step = 0
    while len(names) < len(arrivals) or engine.has_work:
        while len(names) < len(arrivals) and arrivals[len(names)][0] <= step:
            _, prompt, params, chunk = arrivals[len(names)]
            names.append(engine.add_request(prompt, params, chunk=chunk))
            first = len(prompt) * len(names) // (len(arrivals) + 1)
            scores[names[-1]] = [history_logits(np.array(prompt), 97)[:first]]
            engine.add(engine.prepare_scoring(prompt, collect(scores[names[-1]]), first=first, chunk=chunk))
        for out in engine.step():
            if out.output is not None:
                done[out.request_id] = out.output
        engine.check_integrity()
        step += 1
    for name, (_, prompt, params, _) in zip(names, arrivals, strict=True):
        completion = done[name].outputs[0]
        assert list(completion.token_ids) == expected_tokens(prompt, params, len(prompt) + (params.max_tokens or 0))
        assert completion.finish_reason == "length"
        assert np.array_equal(np.concatenate(scores[name]), history_logits(np.array(prompt), 97))


def test_a_receiver_that_fails_fails_its_request_alone() -> None:
    engine = Engine(NullRunner())

    def receive(position: int, logits: np.ndarray) -> None:
        raise OSError("the disk is full")

    pieces: list[np.ndarray] = []
    good = engine.add(engine.prepare_scoring([1, 2, 3], collect(pieces)))
    bad = engine.add(engine.prepare_scoring([4, 5], receive))
    steps = {step.request_id: step for step in engine.step()}
    assert isinstance(steps[bad].error, OSError)
    assert steps[good].output is not None
    assert np.array_equal(np.concatenate(pieces), history_logits(np.array([1, 2, 3]), 97))
    engine.check_integrity()
    assert not engine.has_work


def test_preemption_recomputes_and_loses_nothing() -> None:
    engine = Engine(NullRunner(num_pages=8))
    params = SamplingParams(seed=1, max_tokens=50)
    names = [engine.add_request([i, i + 1, i + 2], params) for i in range(4)]
    done = finish(engine)
    assert engine.stats.preemptions > 0
    for i, name in enumerate(names):
        assert list(done[name].outputs[0].token_ids) == expected_tokens([i, i + 1, i + 2], params, 53)
    metrics = [done[name].metrics for name in names]
    assert metrics[0] is not None
    assert metrics[0].preemptions == 0
    assert sum(m.preemptions for m in metrics if m) == engine.stats.preemptions


def test_seeds_make_texts_repeatable_and_their_absence_makes_them_new() -> None:
    engine = Engine(NullRunner())
    params = SamplingParams(seed=5, max_tokens=20)
    same = [engine.add_request([1, 2], params) for _ in range(3)]
    other = [engine.add_request([1, 2], SamplingParams(max_tokens=20)) for _ in range(3)]
    done = finish(engine)
    assert len({done[name].outputs[0].token_ids for name in same}) == 1
    assert len({done[name].outputs[0].token_ids for name in [*same, *other]}) == 4


# Ends


def test_lengths() -> None:
    engine = Engine(NullRunner(context_length=40))
    prompt = list(range(30))
    assert len(completion(engine, prompt, SamplingParams(max_tokens=3)).token_ids) == 3
    for wish in (11, 500, None):
        cut = completion(engine, prompt, SamplingParams(temperature=0, max_tokens=wish))
        assert (len(cut.token_ids), cut.finish_reason, cut.stop_reason) == (10, "length", None)
    short = Engine(NullRunner(), context_length=33)
    assert len(completion(short, prompt, SamplingParams(max_tokens=None)).token_ids) == 3


def test_without_max_tokens_the_pool_is_the_limit() -> None:
    engine = Engine(NullRunner(num_pages=2))
    assert len(completion(engine, [1, 2, 3], SamplingParams(temperature=0, max_tokens=None)).token_ids) == 30


def test_end_tokens() -> None:
    tokens = expected_tokens([4, 5], GREEDY, 18)
    end = tokens[7]
    first = tokens.index(end) + 1
    engine = Engine(NullRunner(), eos_token_ids=[end])
    stopped = completion(engine, [4, 5], GREEDY)
    assert stopped.token_ids == tuple(tokens[:first])
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", None)
    ignored = completion(engine, [4, 5], dataclasses.replace(GREEDY, ignore_eos=True))
    assert ignored.token_ids == tuple(tokens)
    own = completion(Engine(NullRunner()), [4, 5], dataclasses.replace(GREEDY, stop_token_ids=[end]))
    assert (own.token_ids, own.finish_reason, own.stop_reason) == (stopped.token_ids, "stop", end)


def test_the_end_token_is_no_text() -> None:
    engine = Engine(NullRunner(vocab_size=4096), TOKENIZER)
    whole = completion(engine, [4, 5], GREEDY)
    assert whole.text == TOKENIZER.decode(whole.token_ids)
    end = whole.token_ids[5]
    stopped = completion(engine, [4, 5], dataclasses.replace(GREEDY, stop_token_ids=[end]))
    assert stopped.token_ids == whole.token_ids[:6]
    assert stopped.text == TOKENIZER.decode(whole.token_ids[:5])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 2**32))
def test_stop_texts(start: int, length: int, seed: int) -> None:
    """Any part of the text that comes without stop texts, as the stop text: the output is what stands before it."""
    params = SamplingParams(seed=seed, max_tokens=30)
    engine = Engine(NullRunner(vocab_size=4096), TOKENIZER)
    whole = completion(engine, [7], params)
    stop = whole.text[start : start + length]
    if not stop:
        return
    cut = completion(engine, [7], dataclasses.replace(params, stop=[stop, "never \0 there"]))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert stop in TOKENIZER.decode(cut.token_ids)
    if len(cut.token_ids) > 1:  # no token too many, except where a character was not complete yet
        assert stop not in TOKENIZER.decode(cut.token_ids[:-1]).rstrip("\ufffd")


# Failures


def test_an_error_in_a_step_fails_its_requests_and_only_those() -> None:
    runner = NullRunner(max_seqs=2)
    engine = Engine(runner)
    first = [engine.add_request([1, 2, 3], GREEDY) for _ in range(2)]
    last = engine.add_request([9], GREEDY)
    engine.step()
    runner.fail_next = error = RuntimeError("the device is on fire")
    assert engine.step() == [StepOutput(name, error=error) for name in first]
    engine.check_integrity()
    assert list(finish(engine)[last].outputs[0].token_ids) == expected_tokens([9], GREEDY, 17)


def test_an_interrupt_changes_nothing() -> None:
    """Ctrl-C inside of compiled code: the step never happened, and may be done again."""
    runner = NullRunner(num_pages=6)
    engine = Engine(runner)
    names = [engine.add_request([i] * 20, dataclasses.replace(GREEDY, max_tokens=40)) for i in range(3)]
    done: dict[str, RequestOutput] = {}
    for step in range(1000):
        runner.fail_next = KeyboardInterrupt() if step % 3 == 0 else None
        with contextlib.suppress(KeyboardInterrupt):
            done |= {out.request_id: out.output for out in engine.step() if out.output}
        engine.check_integrity()
        if not engine.has_work:
            break
    for i, name in enumerate(names):
        assert list(done[name].outputs[0].token_ids) == expected_tokens([i] * 20, GREEDY, 60)


def test_logits_that_are_no_numbers_fail_their_request_only() -> None:
    runner = NullRunner()
    engine = Engine(runner)
    good, bad = engine.add_request([1], GREEDY), engine.add_request([2], GREEDY)
    engine.step()
    runner.poison = {1}
    errors = [out for out in engine.step() if out.error]
    assert [out.request_id for out in errors] == [bad]
    with pytest.raises(HeddleError, match=r"position 1 are not finite"):
        raise errors[0].error or AssertionError
    assert list(finish(engine, begun=True)[good].outputs[0].token_ids) == expected_tokens([1], GREEDY, 17)


def test_abort() -> None:
    engine = Engine(NullRunner(max_seqs=1))
    running, waiting, kept = (engine.add_request([i], GREEDY) for i in range(3))
    engine.step()
    assert engine.abort(running)
    assert engine.abort(waiting)
    assert not engine.abort(running)
    engine.check_integrity()
    assert list(finish(engine)) == [kept]
    assert engine.step() == []


# Requests that cannot be served


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([1, 97], {}, "token id 97 at position 1 is out of range; the model knows 0 to 96"),
        ([-1], {}, "token id -1 at position 0 is out of range"),
        ([2**40], {}, "is out of range"),
        ([1.5], {}, "one flat list of integers"),
        ([[1, 2]], {}, "one flat list of integers"),
        ([[1], [2, 3]], {}, "one flat list of integers"),
        (["a"], {}, "one flat list of integers"),
        ("text", {}, "found the text 'text'"),
        ([1] * 256, {}, "the prompt has 256 tokens; the context holds 256"),
        ([1] * 100, {"max_tokens": 100}, r"max_tokens=100 needs 13 pages of the KV cache; the pool has 10"),
        ([1] * 170, {"max_tokens": None}, r"a prompt of 170 tokens needs 11 pages of the KV cache; the pool has 10"),
        ([1], {"stop": "x"}, "stop texts need a tokenizer"),
        ([1], {"stop_token_ids": [97]}, r"stop_token_ids has 97; the model knows 0 to 96"),
    ],
)
def test_requests_that_can_never_be_served(prompt: Any, params: dict[str, Any], message: str) -> None:
    engine = Engine(NullRunner(num_pages=10))
    with pytest.raises(RequestError, match=message):
        engine.add_request(prompt, SamplingParams(**params))
    assert not engine.has_work


def test_more_bad_requests() -> None:
    engine = Engine(NullRunner(num_pages=10))
    engine.add_request([1] * 100, SamplingParams(max_tokens=61), request_id="a")  # just fits
    with pytest.raises(RequestError, match="request id 'a' is in use"):
        engine.add_request([1], GREEDY, request_id="a")
    with pytest.raises(RequestError, match="chunk is 0"):
        engine.add_request([1], GREEDY, chunk=0)
    with pytest.raises(RequestError, match="needs 11 pages"):
        engine.prepare_scoring([1] * 161, collect([]))
    with pytest.raises(RequestError, match="context holds 256"):
        engine.prepare_scoring([1] * 257, collect([]))
    for first in (-1, 3):
        with pytest.raises(RequestError, match=f"from position {first} on; the positions are 0 to 2"):
            engine.prepare_scoring([1] * 3, collect([]), first=first)
    for length in (0, 257):
        with pytest.raises(RequestError, match=f"context_length is {length}; the model takes 1 to 256"):
            Engine(NullRunner(), context_length=length)
    for tokens in (0, 1.5, True):
        with pytest.raises(RequestError, match=f"step_tokens is {tokens}; allowed is None, or 1 token or more"):
            Engine(NullRunner(), step_tokens=tokens)
    assert Engine(NullRunner(), step_tokens=65).limits.max_tokens == 64, (
        "more than the runner takes means what it takes"
    )
    assert len(finish(engine)) == 1


def test_a_budget_below_the_runners_bounds_every_step() -> None:
    """Decodes count too, and go first: a long prompt gets what they leave."""
    engine = Engine(NullRunner(num_pages=40), step_tokens=12)
    params = SamplingParams(seed=1, max_tokens=30)
    prompts = [[i, i + 1] for i in range(4)] + [[9] * 100]
    names = [engine.add_request(prompt, params) for prompt in prompts]
    sizes, forward = [], engine.runner.forward

    def counted(sequences: Any, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        sizes.append(len(tokens))
        return forward(sequences, tokens, rows)

    engine.runner.forward = counted  # type: ignore[method-assign]
    done = finish(engine)
    assert max(sizes) == 12
    assert sizes.count(12) >= 100 // 12
    for prompt, name in zip(prompts, names, strict=True):
        assert list(done[name].outputs[0].token_ids) == expected_tokens(prompt, params, len(prompt) + 30)


# Statistics


def test_statistics_count_every_token() -> None:
    runner = NullRunner()
    engine = Engine(runner, chunk=10)
    name = engine.add_request([1] * 25, SamplingParams(temperature=0, max_tokens=8))
    metrics = finish(engine)[name].metrics
    assert runner.calls[:3] == [[(0, 10)], [(10, 10)], [(20, 5)]]
    assert (engine.stats.prefill.steps, engine.stats.prefill.prefill_tokens) == (3, 25)
    assert (engine.stats.decode.steps, engine.stats.decode.decode_tokens) == (7, 7)
    for phase in (engine.stats.prefill, engine.stats.decode):
        assert 0 < phase.compiled_seconds < phase.seconds
        assert 0 < phase.python_share < 1
        assert phase.tokens_per_second > 0
    assert metrics is not None
    assert metrics.first_scheduled is not None
    assert metrics.first_token is not None
    assert metrics.arrival <= metrics.first_scheduled <= metrics.first_token <= metrics.finished
