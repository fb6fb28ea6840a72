"""The engine: requests in, tokens out, one batch a step.

A step is a transaction. Plan: the scheduler chooses. Reserve: pages change hands. Run: compiled code computes logits and the
sampler picks tokens. Commit: the requests take them over. An exception before the commit undoes the step (only pages that
were preempted stay given up) and fails the requests that it is about; one in the commit fails the request that it came up
for. All others go on.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .admission import Admission
from .batch import Batch, StepFault
from .commit import Committer
from .errors import QueueFullError, RequestError
from .fairness import FairShares
from .group import Group
from .kv import KVCache
from .outputs import StepOutput
from .request import Receiver, Request
from .reserve import Reservation, lookup
from .runner import Runner
from .sampling import SamplingParams
from .scheduler import POLICIES, PREEMPTIONS, Limits, Schedule, State, schedule, urgency
from .stats import EngineStats
from .structured.masks import Masks
from .tokenizer import Tokenizer
from .trace import Trace, TraceWriter


class Engine:
    """Serves requests on one runner. Not thread-safe: one thread adds requests and calls `step`; any may prepare them."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer | None = None,
        *,
        eos_token_ids: Iterable[int] | None = None,
        chunk: int = 512,
        step_tokens: int | None = None,
        context_length: int | None = None,
        policy: str = "fcfs",
        preemption: str = "recompute",
        max_waiting: int | None = None,
        prefix_cache: bool = True,
        namespace: bytes = b"",
        swap_bytes: int = 0,
        trace: str | Path | Trace | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`eos_token_ids` end a text (None: the tokenizer's end token), `chunk` is the most of a prompt in a step,
        `step_tokens` the most of all requests (None, or more than the runner takes: what that takes): the fewer, the sooner
        the others' next tokens come beside a prompt. `context_length` shortens the model's context.

        policy: who goes first (scheduler.POLICIES). preemption: whether what a preempted request has computed is computed
        again or kept in host memory, up to `swap_bytes`. max_waiting: requests that may wait at a time; None: any number.
        prefix_cache: whether requests share what they have in common; `namespace` is the identity of the model in it. The texts of
        an encoder share nothing: every token has seen what is behind it too.
        trace: a file that gets a line of JSON for whatever happens, which `heddle replay` reads; it holds all prompts.
        """
        for name, value, allowed in (("policy", policy, POLICIES), ("preemption", preemption, PREEMPTIONS)):
            if value not in allowed:
                raise RequestError(f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))}")
        step_tokens = runner.info.max_tokens if step_tokens is None else step_tokens
        if isinstance(step_tokens, bool) or not isinstance(step_tokens, int) or step_tokens < 1:
            raise RequestError(f"step_tokens is {step_tokens!r}; allowed is None, or 1 token or more")
        step_tokens = min(step_tokens, runner.info.max_tokens)
        if max_waiting is not None and (isinstance(max_waiting, bool) or max_waiting < 1):
            raise RequestError(f"max_waiting is {max_waiting!r}; allowed is None, or 1 or more")
        if preemption == "swap" and swap_bytes <= 0:
            raise RequestError("preemption='swap' needs host memory", fix="give swap_bytes, or preemption='recompute'")
        if eos_token_ids is None:
            eos_token_ids = [] if tokenizer is None or tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        info = runner.info
        self.runner, self.tokenizer, self.policy, self.max_waiting = runner, tokenizer, policy, max_waiting
        self.admission = Admission(info, tokenizer, frozenset(int(i) for i in eos_token_ids), chunk, context_length)
        swap_bytes = swap_bytes if preemption == "swap" else 0
        self.kv = KVCache(
            runner,
            info.num_pages,
            info.page_tokens,
            prefix_cache=prefix_cache and not info.encoder,
            namespace=namespace,
            swap_bytes=swap_bytes,
        )
        self.stats = EngineStats()
        self.running: list[Request] = []  # these two by urgency
        self.waiting: list[Request] = []
        self.groups: dict[str, Group] = {}
        self.limits = Limits(step_tokens, info.max_seqs, info.few_rows)
        self._urgency = urgency(policy)
        self._timed: list[Request] = []
        self._shares = FairShares()
        self.clock = clock
        self._arrivals = itertools.count()
        self._committer = Committer(self)
        self._masks = Masks(info.vocab_size)
        if isinstance(trace, (str, Path)):
            options = {"prefix_cache": prefix_cache, "preemption": preemption, "swap_pages": self.kv.num_swappable}
            trace = TraceWriter(trace, self, step_tokens=step_tokens, **options)
        self._trace = trace

    @property
    def context_length(self) -> int:
        """Tokens of a sequence at most."""
        return self.admission.context_length

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished, or its output not handed out."""
        return bool(self.groups or self._committer.kept)

    # Requests.

    def prepare(
        self, prompt_ids: Sequence[int] | np.ndarray, params: SamplingParams | None = None, **options: Any
    ) -> Request:
        """Check a request and build it, without adding it. RequestError says why it can never be served.

        `options`: prompt (its text), request_id, chunk, priority (the smaller the more urgent), tenant, timeout (seconds
        after it is added), salt (only requests with the same one share cached prefixes).
        """
        return self.admission.generating(prompt_ids, params, **options)

    def prepare_scoring(
        self, token_ids: Sequence[int] | np.ndarray, receive: Receiver, *, first: int = 0, **options: Any
    ) -> Request:
        """Like `prepare`, for logits: `receive` gets those of all positions from `first` on, ascending, some every step."""
        return self.admission.receiving(token_ids, receive, first=first, **options)

    def prepare_pooling(
        self, token_ids: Sequence[int] | np.ndarray, receive: Receiver, *, first: int = 0, **options: Any
    ) -> Request:
        """Like `prepare_scoring`, for hidden states (float32[r, width], after the last norm) instead of logits."""
        return self.admission.receiving(token_ids, receive, first=first, pooling=True, **options)

    def add(self, request: Request) -> str:
        """Queue a prepared request; returns its id.

        RequestError where the id is in use or the request was added before, QueueFullError where too many wait.
        """
        if request.request_id in self.groups:
            raise RequestError(f"request id {request.request_id!r} is in use by an unfinished request")
        if request.added:
            raise RequestError(f"request {request.request_id!r} was added before", fix="prepare a new one")
        if self.max_waiting is not None and len(self.waiting) >= self.max_waiting:
            raise QueueFullError(
                f"{len(self.waiting)} requests wait, which is all that may (max_waiting={self.max_waiting})",
                f"{len(self.running)} are being served",
                "send the request again later",
            )
        request.added = True
        request.arrival = self.clock()
        request.number = next(self._arrivals)
        if request.timeout is not None:
            request.deadline = request.arrival + request.timeout
            self._timed.append(request)
        self.groups[request.request_id] = request.group
        self._shares.join(request.tenant)
        self.enqueue(request)
        if self._trace:
            self._trace.add(request)
        return request.request_id

    def add_request(
        self, prompt_ids: Sequence[int] | np.ndarray, params: SamplingParams | None = None, **options: Any
    ) -> str:
        """`prepare` and `add` in one: check a request, queue it and return its id."""
        return self.add(self.prepare(prompt_ids, params, **options))

    def abort(self, request_id: str) -> bool:
        """Forget a request, all samples of it, and free its pages; False where there is no such unfinished request."""
        group = self.groups.get(request_id)
        if group is None:
            return False
        self.drop(group)
        if self._trace:
            self._trace.abort(request_id)
        return True

    def close(self) -> None:
        """Abort everything and close the trace. The engine can still be used."""
        for request_id in list(self.groups):
            self.abort(request_id)
        if self._trace:
            self._trace.close()

    # A step.

    def step(self) -> list[StepOutput]:
        """Serve one batch; returns what it brought to the requests that got something. Empty where there is no work."""
        if not self.groups:
            return self._committer.commit(Batch({}), (), self.clock())
        begin = time.perf_counter()
        now = self.clock()
        plan, batch, fault = Schedule({}, [], []), Batch({}), None
        reservation = Reservation(self)
        try:
            plan = schedule(self._state(now))
            plan = reservation.make(plan)
            batch = Batch(plan.rows)
            if batch.parts:
                batch.mask(self._masks)
                batch.run(self.runner)
                batch.choose(self.runner.sampler)
            elif not plan.expired:
                raise RuntimeError("the scheduler served nobody although requests wait")
        except StepFault as found:
            fault = found
            reservation.undo()
            groups = dict.fromkeys(request.group for request in fault.requests)
            outputs = [self._committer.fail(group, fault.error) for group in groups]
        except BaseException:
            reservation.undo()
            if self._trace:
                self._trace.step(now, plan, batch, [], StepFault([], RuntimeError("interrupted")))
            raise
        else:
            outputs = self._committer.commit(batch, plan.expired, now)
        preempted = len(plan.preempted), len(plan.swapped)
        self.stats.record(batch, time.perf_counter() - begin, *preempted)
        if self._trace:
            self._trace.step(now, plan, batch, outputs, fault)
        return outputs

    def check_integrity(self) -> None:
        """RuntimeError unless pages, queues and ids agree. Holds after every step; cheap enough for tests only."""
        self.kv.check_integrity(request.held for request in self.running)
        everyone = [*self.running, *self.waiting]
        live = [request for group in self.groups.values() for request in group.live]
        if len(everyone) != len(live) or set(everyone) != set(live) or not all(g.live for g in self.groups.values()):
            raise RuntimeError("engine: the queues and the unfinished requests disagree")
        if any(name != request.request_id for name, group in self.groups.items() for request in group.live):
            raise RuntimeError("engine: a request is under another's id")
        for queue in (self.running, self.waiting):
            if queue != sorted(queue, key=self._urgency):
                raise RuntimeError("engine: requests are out of order")
        for request in self.waiting:
            if request.num_pages or (request.computed and request.swapped is None):
                raise RuntimeError("engine: a waiting request holds pages")
        if any(r.swapped is not None or r.missing_pages(r.computed) for r in self.running):
            raise RuntimeError("engine: a running request lacks pages")
        if len(self.running) > self.limits.max_seqs or any(r.request_id not in self.groups for r in self._timed):
            raise RuntimeError("engine: too many requests run, or a finished one has a deadline")

    # What the parts of a step do with the queues.

    def enqueue(self, request: Request, *, running: bool = False) -> None:
        """Put a request where its urgency belongs."""
        bisect.insort(self.running if running else self.waiting, request, key=self._urgency)

    def remove(self, request: Request) -> None:
        """Take an unfinished request out of its queue and free its pages. All or nothing."""
        if request.swapped is not None:
            self.kv.drop(request.swapped)
            request.swapped = None
        elif request.num_pages:
            self.kv.release(request.held)
        request.drop_pages()
        (self.running if request in self.running else self.waiting).remove(request)

    def drop(self, group: Group) -> None:
        """Forget a group and all that is left of it."""
        for request in list(group.live):
            self.remove(request)
            group.live.remove(request)
        self.forget(group)

    def forget(self, group: Group) -> None:
        """The last request of a group is gone."""
        lead = group.lead
        del self.groups[lead.request_id]
        self._shares.leave(lead.tenant)
        if lead.deadline is not None:
            self._timed.remove(lead)

    def served(self, request: Request, start: int, end: int) -> None:
        """Charge the tenant of a request for its tokens from position `start` to `end`."""
        self._shares.serve(request, start, end)

    def _state(self, now: float) -> State:
        return State(
            self.running,
            self.waiting,
            self.kv.num_free,
            self.kv.num_pages,
            self.limits,
            functools.partial(lookup, self),
            self.policy,
            self._shares.service,
            self.kv.num_swappable,
            self._timed,
            now,
        )
