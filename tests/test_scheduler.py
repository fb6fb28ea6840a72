"""The scheduler alone: budgets hold, order is kept, the first request always moves on."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.runtime.pages import PagePool
from heddle.runtime.request import Request, pages_for
from heddle.runtime.sampling import SamplingParams
from heddle.runtime.scheduler import Limits, Schedule, schedule

PAGE = 16


def request(name: str, prompt: int, generate: int = 8, chunk: int = 512) -> Request:
    return Request(
        name, np.arange(prompt, dtype=np.int32), max_length=prompt + generate, chunk=chunk, params=SamplingParams()
    )


def started(name: str, prompt: int, generate: int = 64) -> Request:
    """A request that is decoding: its prompt is computed and one token is pending."""
    r = request(name, prompt, generate)
    r.add_pages(np.arange(r.pages_to_admit, dtype=np.int32))
    r.computed = prompt
    r.append(1)
    return r


def names(plan: Schedule) -> dict[str, int]:
    return {r.request_id: rows for r, rows in plan.rows.items()}


def test_decodes_first_then_chunks_in_order_of_arrival() -> None:
    a, b, c = started("a", 20), request("b", 300, chunk=40), started("c", 20)
    b.add_pages(np.arange(b.pages_to_admit, dtype=np.int32))
    b.computed = 80
    plan = schedule([a, b, c], [request("d", 30), request("e", 500)], 100, Limits(100, 8))
    assert list(names(plan).items()) == [("a", 1), ("c", 1), ("b", 40), ("d", 30), ("e", 28)]
    assert [r.request_id for r in plan.admitted] == ["d", "e"]


def test_admission_needs_pages_for_the_prompt_and_one_more() -> None:
    waiting = [request("a", 16)]
    assert not schedule([], waiting, 1, Limits(64, 8)).rows
    assert names(schedule([], waiting, 2, Limits(64, 8))) == {"a": 16}


def test_nobody_overtakes_a_request_that_does_not_fit() -> None:
    plan = schedule([], [request("big", 160), request("small", 3)], 10, Limits(512, 8))
    assert not plan.rows
    assert not plan.admitted


def test_sequences_are_bounded() -> None:
    plan = schedule([started("a", 3)], [request(n, 3) for n in "bcd"], 100, Limits(64, 3))
    assert names(plan) == {"a": 1, "b": 3, "c": 3}


def test_last_arrival_gives_its_pages_up() -> None:
    a, b, c = started("a", 15), started("b", 31), started("c", 40)
    for r in (a, b):
        r.computed, r.num_tokens = r.num_pages * PAGE, r.num_pages * PAGE + 1  # at the end of the last page
    plan = schedule([a, b, c], [request("d", 1)], 0, Limits(64, 8))
    assert names(plan) == {"a": 1, "b": 1}
    assert plan.preempted == [c]  # its pages serve both
    assert not plan.admitted  # nobody is let in while others are turned out


def test_a_request_may_be_its_own_victim() -> None:
    a, b = started("a", 15), started("b", 31)
    for r in (a, b):
        r.computed, r.num_tokens = r.num_pages * PAGE, r.num_pages * PAGE + 1
    plan = schedule([a, b], [], 1, Limits(64, 8))
    assert names(plan) == {"a": 1}
    assert plan.preempted == [b]


@st.composite
def loads(draw: st.DrawFn) -> tuple[list[tuple[int, int, int, int]], Limits, int]:
    """(arrival step, prompt, tokens to generate, chunk) of requests, the bounds of a step, and pages that fit each."""
    requests = draw(
        st.lists(
            st.tuples(st.integers(0, 20), st.integers(1, 90), st.integers(1, 40), st.integers(1, 64)),
            min_size=1,
            max_size=9,
        )
    )
    limits = Limits(draw(st.integers(1, 70)), draw(st.integers(1, 5)))
    largest = max(pages_for(prompt + generate - 1) for _, prompt, generate, _ in requests)
    return requests, limits, largest + draw(st.integers(0, 6))


@settings(max_examples=150, deadline=None)
@given(loads())
def test_every_token_is_served_once_and_in_order(load: tuple[list[tuple[int, int, int, int]], Limits, int]) -> None:
    """A small engine without a model: serve, check all promises at every step, and finish within a bound."""
    todo, limits, num_pages = load
    todo = sorted(todo)
    pool, running, waiting = PagePool(num_pages), list[Request](), list[Request]()
    finished: list[str] = []
    arrivals: list[str] = []
    steps = 0
    while len(finished) < len(todo):
        for name, (_, prompt, generate, chunk) in enumerate(todo[len(arrivals) :], len(arrivals)):
            if todo[name][0] <= steps:
                arrivals.append(str(name))
                waiting.append(request(str(name), prompt, generate, chunk))
        plan = schedule(running, waiting, pool.num_free, limits)
        head = (running + waiting)[:1]
        assert all(r in plan.rows for r in head), "the first request always moves on"
        assert sum(plan.rows.values()) <= limits.max_tokens
        assert len(plan.rows) <= limits.max_seqs
        assert plan.admitted == waiting[: len(plan.admitted)]
        assert plan.preempted == running[len(running) - len(plan.preempted) :][::-1]
        for r in plan.preempted:
            running.remove(r)
            pool.release(r.drop_pages())
            waiting.insert(0, r)
        for r in plan.admitted:
            waiting.remove(r)
            running.append(r)
            r.add_pages(pool.allocate(r.pages_to_admit))
        assert set(plan.rows) <= set(running)
        assert len(running) <= limits.max_seqs
        for r, rows in plan.rows.items():
            assert 1 <= rows <= min(r.pending, r.chunk)
            r.add_pages(pool.allocate(r.missing_pages(r.computed + rows)))
            r.computed += rows
            if r.pending == 0:
                r.append(0)
            if r.num_tokens == r.max_length:
                running.remove(r)
                pool.release(r.drop_pages())
                finished.append(r.request_id)
        pool.check_integrity(r.pages for r in running)
        steps += 1
        assert steps < 20_000, "no request waits for ever"
    assert pool.num_free == num_pages


def test_planning_changes_nothing() -> None:
    running, waiting = [started("a", 20), started("b", 15)], [request("c", 30)]
    before = [(r.computed, r.num_tokens, r.pages.tolist()) for r in running + waiting]
    first, second = (names(schedule(running, waiting, 4, Limits(16, 4))) for _ in range(2))
    assert first == second
    assert before == [(r.computed, r.num_tokens, r.pages.tolist()) for r in running + waiting]
