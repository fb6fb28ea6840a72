"""The scheduler alone: budgets hold, order is kept, the first request always moves on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.runtime.fairness import FairShares
from heddle.runtime.kv import NO_PAGES, Cached
from heddle.runtime.pages import PagePool
from heddle.runtime.request import Request, pages_for
from heddle.runtime.sampling import SamplingParams
from heddle.runtime.scheduler import Limits, Schedule, State, schedule

PAGE = 16
POOL = 4000


def plan_of(
    running: Sequence[Request], waiting: Sequence[Request], free_pages: int, limits: Limits, **options: Any
) -> Schedule:
    options = {"lookup": lambda request: Cached(0, NO_PAGES, 0), "num_pages": POOL} | options
    return schedule(State(running, waiting, free_pages, limits=limits, **options))


def request(name: str, prompt: int, generate: int = 8, chunk: int = 512) -> Request:
    return Request(
        name, np.arange(prompt, dtype=np.int32), max_length=prompt + generate, chunk=chunk, params=SamplingParams()
    )


def next_pages(count: int) -> np.ndarray:
    """Pages that no other request of this test has."""
    first = next(COUNTER) * 8
    return np.arange(first, first + count, dtype=np.int32) % POOL


COUNTER = itertools.count()


def started(name: str, prompt: int, generate: int = 64) -> Request:
    """A request that is decoding: its prompt is computed and one token is pending."""
    r = request(name, prompt, generate)
    r.add_pages(next_pages(r.pages_to_start))
    r.computed = prompt
    r.append(1)
    return r


def forced(name: str, prompt: int, more: int) -> Request:
    """A request that is decoding, whose grammar forced `more` tokens after the pending one."""
    r = started(name, prompt)
    for _ in range(more):
        r.append(2)
    return r


def names(plan: Schedule) -> dict[str, int]:
    return {r.request_id: rows for r, rows in plan.rows.items()}


def test_forced_tokens_are_served_together_where_that_is_cheap() -> None:
    """Within the code for few rows; beyond it only where the step serves twice the tokens by it."""
    for more, few, expected in ((3, 0, 4), (3, 8, 4), (5, 4, 6), (1, 3, 1), (2, 4, 2), (3, 4, 4), (40, 8, 41)):
        a, b, c = started("a", 20), forced("b", 20, more), started("c", 20)
        assert names(plan_of([a, b, c], [], 100, Limits(64, 8, few))) == {"a": 1, "b": expected, "c": 1}


def test_forced_tokens_take_free_pages_only_and_leave_room_for_others() -> None:
    a, b = forced("a", 14, 40), started("b", 20)  # a has a page, and its first two tokens a place
    assert a.num_pages == 1
    for free, expected in ((0, 2), (1, 18), (2, 34), (9, 41)):
        plan = plan_of([a, b], [], free, Limits(64, 8))
        assert names(plan) == {"a": expected, "b": 1}
        assert not plan.preempted
    assert names(plan_of([a, b], [], 9, Limits(10, 8))) == {"a": 9, "b": 1}
    late = request("c", 300, chunk=20)
    late.add_pages(next_pages(late.pages_to_start))
    assert names(plan_of([b, a, late], [], 9, Limits(30, 8))) == {"b": 1, "a": 9, "c": 20}


def test_decodes_first_then_chunks_in_order_of_arrival() -> None:
    a, b, c = started("a", 20), request("b", 300, chunk=40), started("c", 20)
    b.add_pages(next_pages(b.pages_to_start))
    b.computed = 80
    plan = plan_of([a, b, c], [request("d", 30), request("e", 500)], 100, Limits(100, 8))
    assert list(names(plan).items()) == [("a", 1), ("c", 1), ("b", 40), ("d", 30), ("e", 28)]
    assert [r.request_id for r in plan.admitted] == ["d", "e"]


def test_admission_needs_pages_for_the_prompt_and_one_more() -> None:
    waiting = [request("a", 16)]
    assert not names(plan_of([started("b", 3)], waiting, 1, Limits(64, 8))).get("a")
    assert names(plan_of([started("b", 3)], waiting, 2, Limits(64, 8))) == {"b": 1, "a": 16}


def test_nobody_overtakes_a_request_that_does_not_fit() -> None:
    plan = plan_of([started("r", 3)], [request("big", 160), request("small", 3)], 10, Limits(512, 8))
    assert names(plan) == {"r": 1}
    assert not plan.admitted


def test_sequences_are_bounded() -> None:
    plan = plan_of([started("a", 3)], [request(n, 3) for n in "bcd"], 100, Limits(64, 3))
    assert names(plan) == {"a": 1, "b": 3, "c": 3}


def test_last_arrival_gives_its_pages_up() -> None:
    a, b, c = started("a", 15), started("b", 31), started("c", 40)
    for r in (a, b):
        r.computed, r.num_tokens = r.num_pages * PAGE, r.num_pages * PAGE + 1  # at the end of the last page
    plan = plan_of([a, b, c], [request("d", 1)], 0, Limits(64, 8))
    assert names(plan) == {"a": 1, "b": 1}
    assert plan.preempted == [c]  # its pages serve both
    assert not plan.admitted  # nobody is let in while others are turned out


def test_a_request_may_be_its_own_victim() -> None:
    a, b = started("a", 15), started("b", 31)
    for r in (a, b):
        r.computed, r.num_tokens = r.num_pages * PAGE, r.num_pages * PAGE + 1
    plan = plan_of([a, b], [], 1, Limits(64, 8))
    assert names(plan) == {"a": 1}
    assert plan.preempted == [b]


def give_back(pool: PagePool, request: Request) -> None:
    pool.release(request.held)
    request.drop_pages()


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
        plan = plan_of(running, waiting, pool.num_free, limits, num_pages=num_pages)
        head = (running + waiting)[:1]
        assert all(r in plan.rows for r in head), "the first request always moves on"
        assert sum(plan.rows.values()) <= limits.max_tokens
        assert len(plan.rows) <= limits.max_seqs
        assert plan.admitted == waiting[: len(plan.admitted)]
        assert plan.preempted == running[len(running) - len(plan.preempted) :][::-1]
        for r in plan.preempted:
            running.remove(r)
            give_back(pool, r)
            waiting.insert(0, r)
        for r in plan.admitted:
            waiting.remove(r)
            running.append(r)
            r.add_pages(pool.allocate(r.pages_to_start - r.num_pages))
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
                give_back(pool, r)
                finished.append(r.request_id)
        pool.check_integrity(r.pages for r in running)
        steps += 1
        assert steps < 20_000, "no request waits for ever"
    assert pool.num_free == num_pages


def test_planning_changes_nothing() -> None:
    running, waiting = [started("a", 20), started("b", 15)], [request("c", 30)]
    before = [(r.computed, r.num_tokens, r.pages.tolist()) for r in running + waiting]
    first, second = (names(plan_of(running, waiting, 4, Limits(16, 4))) for _ in range(2))
    assert first == second
    assert before == [(r.computed, r.num_tokens, r.pages.tolist()) for r in running + waiting]


# Policies


def urgent(name: str, priority: int, prompt: int = 20, *, running: bool = False) -> Request:
    r = started(name, prompt) if running else request(name, prompt)
    r.priority = priority
    return r


def test_an_urgent_request_turns_out_as_few_as_will_do() -> None:
    running = [urgent("a", 0, running=True), urgent("b", 2, running=True), urgent("c", 3, running=True)]
    plan = plan_of(running, [urgent("u", 1)], 0, Limits(64, 8), policy="priority")
    assert plan.preempted == [running[2]]
    assert names(plan) == {"a": 1, "b": 1, "u": 20}


def test_nobody_is_turned_out_for_equals_or_in_vain() -> None:
    running = [urgent("a", 0, running=True), urgent("b", 2, running=True)]
    for waiting, policy in ((urgent("u", 2), "priority"), (urgent("u", 1, 500), "priority"), (urgent("u", 1), "fcfs")):
        plan = plan_of(running, [waiting], 0, Limits(64, 8), policy=policy)
        assert names(plan) == {"a": 1, "b": 1}
        assert not plan.preempted


def test_shared_pages_are_free_when_their_last_holder_is_out() -> None:
    a, b, c = started("a", 16), started("b", 40), started("c", 40)
    c._pages[: c.num_pages] = b.pages  # samples of one prompt
    a.computed, a.num_tokens = 32, 33
    plan = plan_of([a, b, c], [], 0, Limits(64, 8))
    assert plan.preempted == [c, b]
    assert names(plan) == {"a": 1}


def test_pages_of_the_cache_cost_nothing_where_somebody_holds_them() -> None:
    a, b = started("a", 40), request("b", 60)
    for pages, free in ((a.pages[:2], 2), (np.array([3998, 3999], np.int32), 4)):
        cached = Cached(32, pages, 0)
        for room, served in ((free, {"a": 1, "b": 28}), (free - 1, {"a": 1})):
            assert names(plan_of([a], [b], room + 0, Limits(64, 8), lookup=lambda r, c=cached: c)) == served


def test_swapping_is_bounded_by_host_memory() -> None:
    a, b, c = started("a", 16), started("b", 16), started("c", 40)
    a.computed, a.num_tokens = 32, 33
    b.computed, b.num_tokens = 32, 33
    for room, swapped in ((0, set()), (2, {b}), (3, {c})):
        plan = plan_of([a, b, c][: 2 if room == 2 else 3], [], 0, Limits(64, 8), swap_pages=room)
        assert plan.swapped == swapped
        assert swapped <= set(plan.preempted)


def test_a_step_ends_what_is_late_and_does_nothing_else() -> None:
    a, b = started("a", 16), request("b", 3)
    a.deadline, b.deadline = 4.0, 5.0
    plan = plan_of([a], [b], 100, Limits(64, 8), timed=[a, b], now=4.0)
    assert plan == Schedule({}, [], [], expired=(a,))


def test_the_tenant_that_was_served_least_goes_first() -> None:
    waiting = []
    for i, tenant in enumerate("aaabb"):
        waiting.append(request(f"{tenant}{i}", 10))
        waiting[-1].tenant = tenant
    service = {"a": 100.0, "b": 95.0}
    plan = plan_of([], waiting, 100, Limits(64, 3), policy="fair", service=service)
    assert list(names(plan)) == ["b3", "a0", "b4"]


def test_nobody_saves_up_service() -> None:
    shares, a = FairShares(), request("a", 50)
    a.tenant = "a"
    shares.join("a")
    shares.serve(a, 0, 50)
    shares.serve(a, 20, 50)  # computed again: paid for already
    assert shares.service == {"a": 50.0}
    shares.join("late")
    assert shares.service["late"] == 50.0
    shares.leave("a")
    shares.leave("late")
    shares.join("new")
    assert shares.service == {"new": 50.0}
