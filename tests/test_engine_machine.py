"""The whole engine under random sequences of everything that can happen to it, on the null device."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from heddle.runtime.engine import Engine
from heddle.runtime.errors import DeadlineError, QueueFullError, RequestError
from heddle.runtime.null_runner import NullRunner, history_hidden, history_logits
from heddle.runtime.outputs import RequestOutput
from heddle.runtime.request import Request
from heddle.runtime.sampling import SamplingParams
from heddle.runtime.scheduler import POLICIES, PREEMPTIONS

from .engine_tools import collect, expected_tokens

RECORD = 8 * 16
STEMS = [[(7 * i + j * j) % 97 for j in range(60)] for i in range(3)]


@functools.cache
def expected(prompt: tuple[int, ...], params: SamplingParams, index: int, window: int) -> list[int]:
    return expected_tokens(list(prompt), params, len(prompt) + (params.max_tokens or 0), index=index, window=window)


@st.composite
def prompts(draw: st.DrawFn) -> list[int]:
    """Prompts that begin alike: up to 60 tokens of a stem, and a few of their own."""
    stem = draw(st.sampled_from(STEMS))[: draw(st.integers(0, 60))]
    return stem + draw(st.lists(st.integers(0, 96), min_size=not stem, max_size=4))


options = st.fixed_dictionaries(
    {
        "chunk": st.integers(1, 64),
        "priority": st.integers(-1, 1),
        "tenant": st.sampled_from(["", "a", "b"]),
        "salt": st.sampled_from(["", "", "pepper"]),
        "timeout": st.one_of(st.none(), st.integers(1, 30)),
    }
)


@st.composite
def parameters(draw: st.DrawFn) -> SamplingParams:
    samples = draw(st.sampled_from([1, 1, 2, 4]))
    return SamplingParams(
        n=draw(st.integers(1, samples)),
        best_of=samples,
        temperature=1.0 if samples > 1 else draw(st.sampled_from([0.0, 1.0])),
        seed=draw(st.integers(0, 20)),
        max_tokens=draw(st.integers(1, 30)),
        prompt_logprobs=draw(st.sampled_from([None, None, None, 1])),
    )


class Machine(RuleBasedStateMachine):
    """`due` has the requests that are in the engine, `pieces` what receivers got."""

    @initialize(
        policy=st.sampled_from(POLICIES),
        preemption=st.sampled_from(PREEMPTIONS),
        prefix_cache=st.booleans(),
        swap_pages=st.integers(1, 12),
        bounds=st.fixed_dictionaries(
            {"max_tokens": st.integers(1, 70), "max_seqs": st.integers(1, 5), "num_pages": st.integers(7, 16)}
        ),
        window=st.sampled_from([0, 0, 20]),
        max_waiting=st.sampled_from([None, 3]),
    )
    def begin(
        self,
        policy: str,
        preemption: str,
        prefix_cache: bool,
        swap_pages: int,
        bounds: dict[str, int],
        window: int,
        max_waiting: int | None,
    ) -> None:
        self.now = 0.0
        self.window = window
        self.engine = Engine(
            NullRunner(window=window, **bounds),
            policy=policy,
            preemption=preemption,
            prefix_cache=prefix_cache,
            swap_bytes=swap_pages * RECORD,
            max_waiting=max_waiting,
            clock=lambda: self.now,
        )
        self.due: dict[str, Request] = {}
        self.pieces: dict[str, list[np.ndarray]] = {}
        self.streams: dict[tuple[str, int], list[int]] = {}

    def add(self, request: Request) -> None:
        try:
            name = self.engine.add(request)
        except QueueFullError:
            assert len(self.engine.waiting) >= (self.engine.max_waiting or 1 << 30)
            return
        self.due[name] = request

    @rule(prompt=prompts(), params=parameters(), options=options)
    def generate(self, prompt: list[int], params: SamplingParams, options: dict[str, Any]) -> None:
        self.add(self.engine.prepare(prompt, params, **options))

    @rule(prompt=prompts(), options=options, pooling=st.booleans(), part=st.floats(0, 1, exclude_max=True))
    def receive(self, prompt: list[int], options: dict[str, Any], pooling: bool, part: float) -> None:
        first = int(part * len(prompt))
        pieces = [np.empty((first, 4 if pooling else 97), np.float32)]
        prepare = self.engine.prepare_pooling if pooling else self.engine.prepare_scoring
        request = prepare(prompt, collect(pieces), first=first, **options)
        self.pieces[request.request_id] = pieces
        self.add(request)

    @rule(seconds=st.sampled_from([0, 0, 0, 1, 5]), times=st.integers(1, 6))
    def step(self, seconds: int, times: int) -> None:
        for _ in range(times):
            self.now += seconds
            self.take()
            self.engine.check_integrity()

    @precondition(lambda self: self.due)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.due)))
        assert self.engine.abort(name)
        assert not self.engine.abort(name)
        del self.due[name]

    @rule(prompt=prompts())
    def abort_before_it_is_added(self, prompt: list[int]) -> None:
        request = self.engine.prepare(prompt)
        assert not self.engine.abort(request.request_id)

    @precondition(lambda self: self.due)
    @rule(data=st.data())
    def add_twice(self, data: st.DataObject) -> None:
        request = self.due[data.draw(st.sampled_from(sorted(self.due)))]
        before = list(self.engine.waiting)
        try:
            self.engine.add(request)
        except RequestError:
            assert self.engine.waiting == before
        else:
            raise AssertionError("a request cannot be in the engine twice")

    def take(self) -> None:
        """One step, and what it brought."""
        for out in self.engine.step():
            request = self.due[out.request_id]
            self.streams.setdefault((out.request_id, out.index), []).extend(out.token_ids)
            if out.error is not None:
                assert isinstance(out.error, DeadlineError), repr(out.error)
                assert request.receive is not None
                assert request.deadline is not None
                assert request.deadline <= self.now
            if out.output is not None:
                self.check(request, out.output)
            if out.finished:
                del self.due[out.request_id]

    def check(self, request: Request, output: RequestOutput) -> None:
        """A finished request gives what it gives alone."""
        prompt = request.prompt_ids.tolist()
        if request.receive is not None:
            found, tokens = np.concatenate(self.pieces[request.request_id]), np.array(prompt)
            first = len(self.pieces[request.request_id][0])
            whole = history_hidden(tokens, self.window) if request.pooling else history_logits(tokens, 97, self.window)
            assert np.array_equal(found[first:], whole[first:])
            return
        params = request.params
        assert params is not None
        samples = [expected(tuple(prompt), params, i, self.window) for i in range(params.samples)]
        late = request.deadline is not None and request.deadline <= self.now
        assert len(output.outputs) == params.n or late
        for completion in output.outputs:
            tokens = list(completion.token_ids)
            assert tokens in ([s[: len(tokens)] for s in samples] if late else samples)
            assert completion.finish_reason == "length" or (late and completion.finish_reason == "timeout")
            if params.n == params.samples:
                assert tokens == self.streams[request.request_id, completion.index]
                assert tokens == samples[completion.index][: len(tokens)]
        if params.prompt_logprobs is not None and not late:
            assert [next(iter(table)) for table in output.prompt_logprobs[1:]] == prompt[1:]  # type: ignore[index]

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check_integrity()
            assert set(self.engine.groups) == set(self.due)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(20_000):
            if not self.engine.has_work:
                break
            self.take()
            self.engine.check_integrity()
        assert not self.due, "no request waits for ever"
        assert self.engine.kv.num_free == self.engine.kv.num_pages, "no page is lost"


STEPS = {"stateful_step_count": 30, "deadline": None}


def test_anything_may_happen_to_an_engine() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=50, **STEPS))  # type: ignore[arg-type]


@pytest.mark.slow
def test_anything_may_happen_to_an_engine_for_long() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=2000, **STEPS))  # type: ignore[arg-type]
