"""Who gets how many tokens in the next step: a pure function of the state, so that it can be tested and replayed alone.

Decodes go first, since they cost one token each and keep the texts flowing; what is left of the token budget goes to
prefill chunks in order of urgency (chunked prefill as in Sarathi-Serve, Agrawal et al. 2024). When the pool of pages runs
dry, the least urgent request gives its pages up, to be computed again or to come back from host memory later (recomputation
and swapping as in vLLM). The most urgent one always moves on, so nothing can deadlock.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from .fairness import charge, next_tenant
from .kv import Cached
from .request import Request, pages_for

POLICIES = ("fcfs", "priority", "fair")
PREEMPTIONS = ("recompute", "swap")


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of one step: tokens (rows of the compiled functions) and sequences. Up to `few_rows` tokens are served by code for
    few rows."""

    max_tokens: int
    max_seqs: int
    few_rows: int = 0


@dataclasses.dataclass(frozen=True)
class State:
    """What the scheduler sees; `schedule` changes none of it.

    running, waiting: requests by urgency, the most urgent first (`urgency`).
    free_pages: pages that can be had now, those that only the prefix cache holds included; num_pages: all pages.
    lookup: what the prefix cache has of a request's tokens.
    policy: "fcfs" by arrival, "priority" by priority first, "fair" by what tenants have been served.
    service: tokens served to each tenant so far, weighted (fair).
    swap_pages: pages that host memory can still take in; 0 where preempted requests are computed again.
    timed, now: requests with a deadline, and the time.
    """

    running: Sequence[Request]
    waiting: Sequence[Request]
    free_pages: int
    num_pages: int
    limits: Limits
    lookup: Callable[[Request], Cached]
    policy: str = "fcfs"
    service: Mapping[str, float] = dataclasses.field(default_factory=dict)
    swap_pages: int = 0
    timed: Sequence[Request] = ()
    now: float = 0.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What the next step does.

    rows: how many pending tokens of each request are served, in the order of the batch.
    admitted: waiting requests that start or go on.
    preempted: running requests that give their pages up and wait again, the least urgent first; `swapped` of them keep what
        they have computed in host memory.
    expired: requests past their deadline. Where there are any the step ends them and does nothing else.
    """

    rows: dict[Request, int]
    admitted: list[Request]
    preempted: list[Request]
    swapped: frozenset[Request] = frozenset()
    expired: tuple[Request, ...] = ()


def urgency(policy: str) -> Callable[[Request], tuple[int, int, int]]:
    """The key by which the queues are sorted: smaller goes first. "fair" chooses among waiting requests when it admits."""
    if policy == "priority":
        return lambda request: (request.priority, request.number, request.index)
    return lambda request: (0, request.number, request.index)


def schedule(state: State) -> Schedule:
    """Plan one step. Changes nothing.

    A running request has pages for all tokens it had when it was admitted, so only those that are past their prompts ask for new
    ones. They have one pending token each, or more where a grammar forced some.

    What must be served whole takes one step, which is that of its admission unless an interrupt came between. It is served while
    the budget lasts; alone it may be longer than that, up to what the runner takes.
    """
    expired = tuple(r for r in state.timed if r.deadline is not None and r.deadline <= state.now)
    if expired:
        return Schedule({}, [], [], expired=expired)
    plan = _Plan(state)
    plan.serve_decodes()
    plan.serve_prefills()
    plan.serve_forced()
    if not plan.preempted:  # nobody is let in while others are turned out
        plan.admit()
    return Schedule(plan.rows, plan.admitted, plan.preempted, frozenset(plan.swapped))


def _decodes(request: Request) -> bool:
    """Whether a request is past its prompt, so that every token it gets may need a page."""
    return request.pending == 1 or request.computed >= request.num_prompt


class _Plan:
    """A schedule in the making."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.staying = list(state.running)
        self.free = state.free_pages
        self.budget = state.limits.max_tokens
        self.swap_pages = state.swap_pages
        self.rows: dict[Request, int] = {}
        self.admitted: list[Request] = []
        self.preempted: list[Request] = []
        self.swapped: list[Request] = []
        self._holders: np.ndarray | None = None

    @property
    def holders(self) -> np.ndarray:
        """How many of the requests that stay or come in hold each page; counted only where somebody asks."""
        if self._holders is None:
            held = [request.held for request in self.staying]
            pages = np.concatenate(held) if held else np.empty(0, np.int32)
            self._holders = np.bincount(pages, minlength=self.state.num_pages)
        return self._holders

    def serve_decodes(self) -> None:
        """One token for each request that decodes; pages of the least urgent ones where the pool is dry."""
        # The most urgent request moves on even if it is still in its prompt and decodes could take the whole budget.
        kept = int(bool(self.staying) and not _decodes(self.staying[0]))
        for request in self.state.running:
            if self.budget <= kept or len(self.rows) == len(self.staying):
                break
            if not _decodes(request) or request in self.preempted:
                continue
            needed = request.missing_pages(request.computed + 1)
            while needed > self.free and request not in self.preempted:
                if len(self.staying) == 1:
                    self.free = self.state.num_pages - len(request.held)  # all others are the prefix cache's
                    break
                self.preempt(self.staying[-1])
            if request not in self.preempted:
                self.free -= needed
                self.budget -= 1
                self.rows[request] = 1

    def serve_prefills(self) -> None:
        """What is left of the budget to requests that are in their prompts, in order of urgency."""
        for request in self.staying:
            if self.budget <= 0:
                break
            if not _decodes(request) and (rows := self._portion(request, request.pending)):
                self.rows[request] = rows
                self.budget -= rows

    def serve_forced(self) -> None:
        """More than one token to those that decode and have more, since their grammars forced some; in free pages only.

        Compiled code for few rows is faster than its share of that for many. So that many is not used for less than twice
        the tokens, forced ones may have to wait, and come one by one like all others.
        """
        found = [
            request for request in self.staying if 0 < self.rows.get(request, 0) < min(request.pending, request.chunk)
        ]
        used, few = sum(self.rows.values()), self.state.limits.few_rows
        more = sum(min(request.pending, request.chunk) - self.rows[request] for request in found)
        room = few - used if used <= few < used + more and more < used else self.budget
        for request in found:
            had = self.rows[request]
            rows = min(request.pending, request.chunk, had + min(room, self.budget))
            taken = request.missing_pages(request.computed + had)
            pages = min(request.missing_pages(request.computed + rows) - taken, self.free)
            rows = min(rows, (request.num_pages + taken + pages) * request.page_tokens - request.computed)
            if rows > had:
                self.free -= pages
                self.budget -= rows - had
                room -= rows - had
                self.rows[request] = rows

    def admit(self) -> None:
        """Let waiting requests in while there is room for all that they have, and one token more."""
        for request in self._candidates():
            if not self._fits(request) and not self._make_room(request):
                break
            if request.swapped is None:
                cached = self.state.lookup(request)
                pending = request.num_tokens - cached.tokens
                self.free -= self._cost(request, cached)
                self.holders[cached.pages] += 1
            else:
                pending = request.pending
                self.free -= request.pages_to_start
            self.rows[request] = self._portion(request, pending)
            self.budget -= self.rows[request]
            self.admitted.append(request)

    def preempt(self, request: Request) -> None:
        """Turn `request` out: its pages are free, as far as nobody else holds them, and so is what it got of the step."""
        holders = self.holders
        self.staying.remove(request)
        self.preempted.append(request)
        rows = self.rows.pop(request, 0)
        self.budget += rows
        self.free += request.missing_pages(request.computed + rows)
        holders[request.held] -= 1
        self.free += int(np.count_nonzero(holders[request.held] == 0))
        size = pages_for(request.computed, request.page_tokens) - request.first_page
        if 0 < size <= self.swap_pages:
            self.swap_pages -= size
            self.swapped.append(request)

    def _candidates(self) -> Iterator[Request]:
        """Waiting requests in the order in which they are let in."""
        if self.state.policy != "fair" or not self._has_place():
            yield from self.state.waiting
            return
        queues: dict[str, list[Request]] = {}
        for request in reversed(self.state.waiting):
            queues.setdefault(request.tenant, []).append(request)
        service = {tenant: self.state.service.get(tenant, 0.0) for tenant in queues}
        while queues:
            tenant = next_tenant(service, queues)
            request = queues[tenant].pop()
            service[tenant] += charge(request, 0, request.num_tokens)
            if not queues[tenant]:
                del queues[tenant]
            yield request

    def _has_place(self) -> bool:
        return self.budget > 0 and len(self.staying) + len(self.admitted) < self.state.limits.max_seqs

    def _fits(self, request: Request) -> bool:
        if not self._has_place():
            return False
        if not self.staying and not self.admitted:
            return True  # alone it always fits: that was checked when it came
        if not self._portion(request, request.pending):
            return False
        if request.pages_to_start <= self.free:
            return True
        return request.swapped is None and self._cost(request, self.state.lookup(request)) <= self.free

    def _portion(self, request: Request, pending: int) -> int:
        """How many of its pending tokens are served: a chunk within the budget, or all of what must be served whole, 0 where
        the budget has no room for all of them beside others."""
        if not request.whole:
            return min(pending, request.chunk, self.budget)
        return pending if pending <= self.budget or not self.rows else 0

    def _cost(self, request: Request, cached: Cached) -> int:
        """Free pages that it takes to start: new ones, and cached ones that nobody holds (they count as free)."""
        taken = int(np.count_nonzero(self.holders[cached.pages] == 0))
        return request.pages_to_start - len(cached.pages) + taken

    def _make_room(self, request: Request) -> bool:
        """Turn out requests of lower priority, as few as will do; none where all of them would not."""
        if self.state.policy != "priority":
            return False
        trial = copy.copy(self)
        trial.staying, trial.rows = list(self.staying), dict(self.rows)
        trial.preempted, trial.swapped = list(self.preempted), list(self.swapped)
        trial._holders = self.holders.copy()
        while trial.staying and trial.staying[-1].priority > request.priority:
            trial.preempt(trial.staying[-1])
            if trial._fits(request):
                self.__dict__.update(trial.__dict__)
                return True
        return False
