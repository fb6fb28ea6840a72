"""A fault at every call of every step: the requests that it is about fail, all others give what they give alone."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from heddle.runtime.engine import Engine
from heddle.runtime.null_runner import NullRunner, history_logits
from heddle.runtime.outputs import RequestOutput
from heddle.runtime.sampling import SamplingParams

from .engine_tools import expected_tokens
from .tokenizers_for_tests import byte_level

TOKENIZER = byte_level()
VOCAB = 97
KV_CALLS = (
    "lookup",
    "acquire",
    "allocate",
    "release",
    "publish",
    "fork",
    "swap_out",
    "swap_in",
    "drop",
    "release_before",
)
RUNNER_CALLS = ("forward", "copy_pages", "save_pages", "load_pages", "hidden")
BEFORE_THE_COMMIT = {"lookup", "acquire", "allocate", "swap_out", "swap_in", "forward", "hidden", "sample", "logprobs"}
SHARED = list(range(40, 70))


@functools.cache
def expected(prompt: tuple[int, ...], params: SamplingParams, length: int, index: int) -> list[int]:
    return expected_tokens(list(prompt), params, length, VOCAB, index=index)


class Fault(Exception):
    """What the tests make happen."""


class Calls:
    """Counts the calls of a step, and raises `error` at number `at`."""

    def __init__(self, at: int, error: Callable[[], BaseException]) -> None:
        self.at, self.error = at, error
        self.seen: list[str] = []
        self.armed = False
        self.inside = 0

    def watch(self, owner: Any, name: str) -> None:
        """Count the calls of a method."""
        method = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            if self.armed and (not self.inside or name in RUNNER_CALLS):  # not what the cache asks of itself
                self.seen.append(name)
                if len(self.seen) - 1 == self.at:
                    raise self.error()
            self.inside += 1
            try:
                return method(*args, **options)
            finally:
                self.inside -= 1

        setattr(owner, name, call)


class Load:
    """An engine under pressure with requests of all kinds, whose calls are watched."""

    def __init__(self, preemption: str, at: int, error: Callable[[], BaseException] = Fault) -> None:
        self.calls = Calls(at, error)
        runner = NullRunner(vocab_size=VOCAB, max_tokens=24, max_seqs=4, num_pages=8)
        self.engine = Engine(runner, TOKENIZER, preemption=preemption, swap_bytes=6 * 128)
        for name in KV_CALLS:
            self.calls.watch(self.engine.kv, name)
        for name in RUNNER_CALLS:
            self.calls.watch(runner, name)
        for name in ("sample", "logprobs"):
            self.calls.watch(runner.sampler, name)
        self.wanted: dict[str, tuple[list[int], SamplingParams]] = {}
        self.add([*SHARED, 7], SamplingParams(seed=9, max_tokens=6, n=2, prompt_logprobs=0, ignore_eos=True))
        for i in range(3):
            self.add(
                [20 * i + j for j in range(20 + i)],
                SamplingParams(seed=i, max_tokens=14 + 6 * i, logprobs=1, ignore_eos=True),
            )
        self.pieces: list[np.ndarray] = []
        self.scoring = self.engine.add(self.engine.prepare_scoring(SHARED, self.receive))
        self.pooling = self.engine.add(self.engine.prepare_pooling(SHARED, self.drop, first=29))
        self.errors: dict[str, Exception] = {}
        self.done: dict[str, RequestOutput] = {}
        self.interrupts = 0

    def add(self, prompt: list[int], params: SamplingParams) -> None:
        request = self.engine.prepare(prompt, params)
        for name in ("push", "finish"):
            self.calls.watch(request.detokenizer, name)
        self.wanted[self.engine.add(request)] = prompt, params

    def receive(self, position: int, logits: np.ndarray) -> None:
        assert position == sum(map(len, self.pieces))
        self.pieces.append(logits.copy())

    def drop(self, position: int, hidden: np.ndarray) -> None:
        """The pooling request's states are tested elsewhere."""

    def run(self) -> None:
        for _ in range(500):
            if not self.engine.has_work:
                break
            self.calls.armed = True
            try:
                steps = self.engine.step()
            except KeyboardInterrupt:
                steps = []
                self.interrupts += 1
            self.calls.armed = False
            for out in steps:
                assert out.request_id not in self.errors.keys() | self.done.keys()
                if out.error is not None:
                    self.errors[out.request_id] = out.error
                if out.output is not None:
                    self.done[out.request_id] = out.output
            self.engine.check_integrity()
        assert self.errors.keys() | self.done.keys() == {*self.wanted, self.scoring, self.pooling}
        assert self.engine.kv.num_free == self.engine.kv.num_pages, "no page is lost"
        for name, output in self.done.items():
            if name in self.wanted:
                prompt, params = self.wanted[name]
                for i, completion in enumerate(output.outputs):
                    length = len(prompt) + (params.max_tokens or 0)
                    assert list(completion.token_ids) == expected(tuple(prompt), params, length, i)
        if self.scoring in self.done:
            assert np.array_equal(np.concatenate(self.pieces), history_logits(np.array(SHARED), VOCAB))


def calls_of(preemption: str) -> list[str]:
    load = Load(preemption, -1)
    load.run()
    assert not load.errors
    assert load.engine.stats.preemptions
    return load.calls.seen


EVERY = [7, pytest.param(1, marks=pytest.mark.slow)]


def some(seen: list[str], every: int) -> list[tuple[int, str]]:
    """Every so many calls by number and name, and the first of each name."""
    return [(at, name) for at, name in enumerate(seen) if at % every == 0 or name not in seen[:at]]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("every", EVERY)
def test_a_fault_at_any_call_fails_only_what_it_is_about(preemption: str, every: int) -> None:
    seen = calls_of(preemption)
    counts = collections.Counter(seen)
    assert {
        "lookup",
        "acquire",
        "allocate",
        "release",
        "publish",
        "fork",
        "forward",
        "hidden",
        "sample",
        "push",
    } <= set(seen)
    assert ("swap_in" in counts) == (preemption == "swap")
    for at, name in some(seen, every):
        load = Load(preemption, at)
        load.run()
        assert load.calls.seen[at] == name
        assert all(isinstance(error, Fault) for error in load.errors.values())
        assert load.errors, f"call {at}, {name}: its fault was swallowed"
        if name not in ("forward", "sample", "hidden"):  # calls for a whole batch
            assert len(load.errors) == 1, f"call {at}, {name}"


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("every", EVERY)
def test_an_interrupt_loses_nothing_but_the_request_whose_results_it_hits(preemption: str, every: int) -> None:
    seen = calls_of(preemption)
    for at, name in some(seen, every):
        load = Load(preemption, at, KeyboardInterrupt)
        load.run()
        assert load.interrupts == 1
        assert len(load.errors) <= (name not in BEFORE_THE_COMMIT), f"call {at}, {name}"
