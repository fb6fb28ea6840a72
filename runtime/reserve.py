"""The second part of a step: requests move between the queues and pages to their owners, as planned, and back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from .batch import StepFault
from .kv import Cached
from .request import Request, pages_for
from .scheduler import Schedule

if TYPE_CHECKING:
    from .engine import Engine


def lookup(engine: Engine, request: Request) -> Cached:
    """What the prefix cache has of a request, up to the first position whose results are wanted. StepFault blames it."""
    try:
        return engine.kv.lookup(request.tokens[: request.first_wanted + 1], request.salt)
    except Exception as error:
        raise StepFault([request], error) from error


class Reservation:
    """What one step has taken so far. Every call is about one request, which a StepFault blames."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._admitted: list[Request] = []
        self._grown: list[tuple[Request, int]] = []

    def make(self, plan: Schedule) -> Schedule:
        """Preempt, admit, and find a place for each row; returns what came of the plan.

        A request waits on where others that were let in before it have displaced what was cached of it, and it does not fit
        any more. After a StepFault `undo` must be called, as after any failure.
        """
        request = None
        try:
            for request in plan.preempted:
                self._preempt(request, request in plan.swapped)
            for request, count in plan.rows.items():
                missing = request.missing_pages(request.computed + count)
                if missing and request not in plan.admitted:  # those get all of theirs when they come in
                    self._grow(request, missing)
            for i, request in enumerate(plan.admitted):
                if not self._admit(request):
                    late = plan.admitted[i:]
                    rows = {r: count for r, count in plan.rows.items() if r not in late}
                    plan = dataclasses.replace(plan, admitted=plan.admitted[:i], rows=rows)
                    break
        except Exception as error:
            assert request is not None
            raise StepFault([request], error) from error
        return plan

    def undo(self) -> None:
        """Give everything back, the last first. What was preempted stays so, and what came back from the host stays there."""
        kv = self._engine.kv
        for request, had in reversed(self._grown):
            kv.release(request.pages[had:])
            request.cut_pages(had)
        for request in reversed(self._admitted):
            kv.release(request.held)
            request.drop_pages()
            self._engine.running.remove(request)
            self._engine.enqueue(request)
        self._grown, self._admitted = [], []

    def _preempt(self, request: Request, swap: bool) -> None:
        engine = self._engine
        if swap:
            used = pages_for(request.computed, request.page_tokens)
            if used < request.num_pages:  # for tokens that are not computed yet
                engine.kv.release(request.pages[used:])
                request.cut_pages(used)
            request.swapped = engine.kv.swap_out(request.pages)
            request.cut_pages(0)
        else:
            engine.kv.release(request.held)
            request.drop_pages()
        request.group.preemptions += 1
        engine.running.remove(request)
        engine.enqueue(request)

    def _admit(self, request: Request) -> bool:
        """Let a request in; False, and nothing is changed, where its pages cannot be had."""
        engine, total = self._engine, request.pages_to_start
        if request.swapped is not None:
            if total > engine.kv.num_free:
                return False
            request.add_pages(engine.kv.swap_in(request.swapped))
            request.swapped = None
            self._start(request)
            if total > request.num_pages:
                self._grow(request, total - request.num_pages)
            return True
        tokens = request.tokens[: request.first_wanted + 1]
        cached = engine.kv.lookup(tokens, request.salt)
        if total - len(cached.pages) + cached.evictable > engine.kv.num_free:
            return False
        new_pages = total - len(cached.pages) - (cached.tail is not None)
        acquired = engine.kv.acquire(tokens, request.salt, new_pages)
        request.add_pages(acquired.pages)
        request.computed, request.published = acquired.tokens, len(cached.pages)
        if request.first_scheduled is None:
            request.cached_tokens = acquired.tokens
        self._start(request)
        self._admitted.append(request)
        return True

    def _start(self, request: Request) -> None:
        self._engine.waiting.remove(request)
        self._engine.enqueue(request, running=True)

    def _grow(self, request: Request, count: int) -> None:
        pages = self._engine.kv.allocate(count)
        self._grown.append((request, request.num_pages))
        request.add_pages(pages)
