"""Several samples of one prompt, log probabilities, hidden states, deadlines, queues: what requests may ask for besides text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.runtime.engine import Engine
from heddle.runtime.errors import DeadlineError, QueueFullError, RequestError
from heddle.runtime.null_runner import NullRunner, history_hidden, history_logits
from heddle.runtime.outputs import StepOutput
from heddle.runtime.sampling import SamplingParams

from .engine_tools import collect, completion, expected_tokens, finish
from .tokenizers_for_tests import byte_level

PROMPT = [3, 1, 4, 1, 5]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return wide - np.log(np.exp(wide - wide.max()).sum()) - wide.max()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.integers(1, 8), st.booleans())
def test_samples_are_what_each_seed_gives_alone(length: int, n: int, extra: int, seats: int, cache: bool) -> None:
    engine = Engine(NullRunner(max_seqs=seats, num_pages=16), prefix_cache=cache)
    prompt = [(5 * i) % 97 for i in range(length)]
    params = SamplingParams(n=n, best_of=n + extra, seed=length, max_tokens=20)
    name = engine.add_request(prompt, params)
    output = finish(engine, begun=True)[name]
    texts = [expected_tokens(prompt, params, length + 20, index=i) for i in range(n + extra)]
    sums = []
    for tokens in texts:
        logits = history_logits(np.array(prompt + tokens), 97)[length - 1 : -1]
        sums.append(sum(log_softmax(row)[token] for row, token in zip(logits, tokens, strict=True)))
    best = sorted(range(n + extra), key=lambda i: -sums[i])[:n]
    assert [list(c.token_ids) for c in output.outputs] == [texts[i] for i in best]
    assert [c.index for c in output.outputs] == list(range(n))
    assert [c.cumulative_logprob for c in output.outputs] == pytest.approx([sums[i] for i in best], abs=1e-4)
    assert engine.kv.num_free == engine.kv.num_pages


def test_a_prompt_is_computed_once_for_all_samples() -> None:
    runner = NullRunner()
    engine = Engine(runner)
    engine.add_request([1] * 40, SamplingParams(n=4, seed=0, max_tokens=3))
    steps = [engine.step() for _ in range(3)]
    assert runner.calls == [[(0, 40)], [(40, 1)] * 4, [(41, 1)] * 4]
    assert [[(out.index, len(out.token_ids)) for out in outs] for outs in steps] == [[(i, 1) for i in range(4)]] * 3
    assert [out.finish_reason for out in steps[2]] == ["length"] * 4
    assert [out.output is not None for out in steps[2]] == [False] * 3 + [True]


def test_log_probabilities() -> None:
    engine = Engine(NullRunner(), byte_level(), chunk=2)
    params = SamplingParams(seed=1, max_tokens=6, logprobs=3, prompt_logprobs=2, ignore_eos=True)
    name = engine.add_request(PROMPT, params)
    output = finish(engine)[name]
    tokens = [*PROMPT, *output.outputs[0].token_ids]
    rows = [log_softmax(row) for row in history_logits(np.array(tokens), 97)]
    assert output.prompt_logprobs is not None
    assert output.outputs[0].logprobs is not None
    assert output.prompt_logprobs[0] is None
    tables = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
    for i, (row, table) in enumerate(zip(rows, tables, strict=False)):
        assert table is not None
        wanted = {tokens[i + 1], *np.argsort(-row, kind="stable")[: 2 if i + 1 < len(PROMPT) else 3].tolist()}
        assert set(table) == wanted
        for token, entry in table.items():
            assert entry.logprob == pytest.approx(row[token], abs=1e-4)
            assert entry.rank == 1 + int((row > row[token]).sum())
            assert entry.decoded_token == byte_level().decode([token], skip_special_tokens=False)
    assert len(tables) == len(tokens) - 1
    chosen = sum(table[token].logprob for token, table in zip(tokens[5:], output.outputs[0].logprobs, strict=True))
    assert output.outputs[0].cumulative_logprob == pytest.approx(chosen)


def test_hidden_states() -> None:
    engine = Engine(NullRunner(), chunk=3)
    pieces: list[np.ndarray] = [np.empty((2, 4), np.float32)]
    text = engine.add_request(PROMPT, SamplingParams(temperature=0))
    name = engine.add(engine.prepare_pooling(PROMPT, collect(pieces), first=2))
    done = finish(engine)
    assert done[name].outputs == []
    assert np.array_equal(np.concatenate(pieces)[2:], history_hidden(np.array(PROMPT))[2:])
    assert len(done[text].outputs[0].token_ids) == 16


def test_the_prefix_cache_saves_work_and_is_reported() -> None:
    runner = NullRunner()
    engine = Engine(runner)
    prompt = list(range(50))
    first = engine.add_request(prompt, SamplingParams(temperature=0))
    done = finish(engine)
    again = engine.add_request([*prompt[:45], 9], SamplingParams(temperature=0))
    other = engine.add_request(prompt, SamplingParams(temperature=0), salt="mine")
    done |= finish(engine)
    cached = [done[name].num_cached_tokens for name in (first, again, other)]
    assert cached == [0, 45, 0]
    assert done[first].outputs == done[other].outputs
    scored: list[np.ndarray] = [np.empty((20, 97), np.float32)]
    engine.add(engine.prepare_scoring(prompt, collect(scored), first=20))
    finish(engine)
    assert np.array_equal(np.concatenate(scored)[20:], history_logits(np.array(prompt), 97)[20:])
    assert runner.calls[-1] == [(20, 30)], "what comes before the first position may come from the cache"


# Time and queues


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_deadlines_end_requests_with_what_they_have() -> None:
    clock = Clock()
    engine = Engine(NullRunner(max_seqs=1), byte_level(), clock=clock)
    params = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
    running = engine.add_request(PROMPT, params, timeout=10)
    waiting = engine.add_request(PROMPT, params, timeout=10)
    scoring = engine.add(engine.prepare_scoring(PROMPT, collect([]), timeout=10))
    kept = engine.add_request(PROMPT, params)
    for _ in range(3):
        engine.step()
    clock.now = 10.0
    outs = {out.request_id: out for out in engine.step()}
    assert outs.keys() == {running, waiting, scoring}
    for name, count in ((running, 3), (waiting, 0)):
        output = outs[name].output
        assert output is not None
        assert output.outputs[0].finish_reason == outs[name].finish_reason == "timeout"
        assert list(output.outputs[0].token_ids) == expected_tokens(PROMPT, params, 5 + count)
    assert isinstance(outs[scoring].error, DeadlineError)
    with pytest.raises(DeadlineError, match=r"not finished in 10 seconds\n  why: 0 of its 5 tokens"):
        raise outs[scoring].error
    assert len(finish(engine)[kept].outputs[0].token_ids) == 50


def test_metrics_say_where_the_time_went() -> None:
    clock = Clock()
    engine = Engine(NullRunner(), chunk=3, clock=clock)
    name = engine.add_request(PROMPT, SamplingParams(temperature=0, max_tokens=4))
    metrics: list[Any] = []
    while engine.has_work:
        clock.now += 1
        metrics += [out.output.metrics for out in engine.step() if out.output and out.request_id == name]
    found = metrics[0]
    assert (found.queue_seconds, found.prefill_seconds, found.decode_seconds) == (1, 1, 3)
    assert (found.time_to_first_token, found.cached_tokens, found.preemptions) == (2, 0, 0)


def test_a_full_queue_refuses_at_once_with_the_numbers() -> None:
    engine = Engine(NullRunner(max_seqs=1), max_waiting=2)
    engine.add_request(PROMPT)
    engine.step()
    engine.add_request(PROMPT)
    engine.add_request(PROMPT)
    with pytest.raises(QueueFullError, match=r"2 requests wait.*max_waiting=2(.|\n)*1 are being served"):
        engine.add_request(PROMPT)
    assert len(finish(engine, begun=True)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "lifo"}, "policy is 'lifo'; allowed are 'fcfs', 'priority', 'fair'"),
        ({"preemption": "kill"}, "preemption is 'kill'; allowed are 'recompute', 'swap'"),
        ({"preemption": "swap"}, "needs host memory"),
        ({"max_waiting": 0}, "max_waiting is 0"),
    ],
)
def test_engines_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Engine(NullRunner(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": 1.5}, "priority is 1.5"),
        ({"tenant": 3}, "tenant is 3"),
        ({"salt": None}, "salt is None"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Engine(NullRunner()).add_request(PROMPT, **options)


def test_abort_ends_all_samples_and_comes_too_early_without_harm() -> None:
    engine = Engine(NullRunner(max_seqs=2))
    request = engine.prepare(PROMPT, SamplingParams(n=4, max_tokens=9))
    assert not engine.abort(request.request_id)
    engine.add(request)
    engine.step()
    assert (len(engine.running), len(engine.waiting)) == (2, 2)
    assert engine.abort(request.request_id)
    engine.check_integrity()
    assert engine.kv.num_free == engine.kv.num_pages
    assert not engine.has_work
    with pytest.raises(RequestError, match="was added before"):
        engine.add(request)


def test_a_receiver_may_abort_requests_of_its_own_step() -> None:
    engine = Engine(NullRunner())
    names: list[str] = []

    def receive(position: int, logits: np.ndarray) -> None:
        for name in names:
            engine.abort(name)

    names.append(engine.add(engine.prepare_scoring(PROMPT, receive)))
    names.append(engine.add_request(PROMPT))
    assert engine.step() == []
    engine.check_integrity()
    assert not engine.has_work


def test_bad_words() -> None:
    engine = Engine(NullRunner(vocab_size=4096), byte_level())
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    first = byte_level().decode(completion(engine, PROMPT, params).token_ids[:1])
    without = completion(
        engine, PROMPT, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, bad_words=[first])
    )
    assert not without.text.startswith(first)
    with pytest.raises(RequestError, match="bad_words need a tokenizer"):
        Engine(NullRunner()).prepare(PROMPT, SamplingParams(bad_words=["x"]))


def test_step_outputs_compare_and_say_whether_they_are_the_last() -> None:
    assert not StepOutput("a").finished
    assert StepOutput("a", error=OSError()).finished
