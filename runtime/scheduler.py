"""Who gets how many tokens in the next step: a pure function of the state, so that it can be tested and replayed alone.

First come, first served. Decodes go first, since they cost one token each and keep the texts flowing; what is left of
the token budget goes to prefill chunks in order of arrival (chunked prefill as in Sarathi-Serve). When the pool of
pages runs dry, the request that arrived last gives its pages up and is computed again later (recomputation as in vLLM),
so the first one always moves on and nothing can deadlock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from .request import Request


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of one step: tokens (rows of the compiled functions) and sequences."""

    max_tokens: int
    max_seqs: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What the next step does.

    rows: how many pending tokens of each request are served, in the order of the batch.
    admitted: requests that leave the head of the queue, in order of arrival.
    preempted: requests that go back to the head of the queue, the last arrived first.
    """

    rows: dict[Request, int]
    admitted: list[Request]
    preempted: list[Request]


def schedule(running: Sequence[Request], waiting: Iterable[Request], free_pages: int, limits: Limits) -> Schedule:
    """Plan one step. Changes nothing.

    `running` and `waiting` are in order of arrival, and every running request arrived before every waiting one. A
    running request has pages for all tokens it had when it was admitted, so only decodes ask for new ones.
    """
    rows: dict[Request, int] = {}
    budget = limits.max_tokens
    staying = len(running)
    for i, request in enumerate(running):
        if i >= staying or budget == 0:
            break
        if request.pending > 1:
            continue
        needed = request.missing_pages(request.computed + 1)
        while needed > free_pages and staying > i:
            staying -= 1
            free_pages += running[staying].num_pages
        if staying > i:
            free_pages -= needed
            budget -= 1
            rows[request] = 1

    for request in running[:staying]:
        if request.pending > 1 and budget:
            rows[request] = min(request.pending, request.chunk, budget)
            budget -= rows[request]

    admitted: list[Request] = []
    preempted = list(running[staying:][::-1])
    for request in () if preempted else waiting:
        if not budget or len(running) + len(admitted) == limits.max_seqs or request.pages_to_admit > free_pages:
            break
        free_pages -= request.pages_to_admit
        rows[request] = min(request.pending, request.chunk, budget)
        budget -= rows[request]
        admitted.append(request)
    return Schedule(rows, admitted, preempted)
