"""The engine: requests in, tokens out, one batch a step.

A step is a transaction. Plan: the scheduler chooses. Reserve: pages change hands. Run: compiled code computes logits
and the sampler picks tokens. Commit: the requests take them over. An exception before the commit fails the requests of
that step, frees their pages and leaves all others as they were.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from .detokenize import Detokenizer
from .errors import HeddleError, RequestError
from .outputs import CompletionOutput, RequestMetrics, RequestOutput, StepOutput
from .pages import PagePool
from .plans import PlanSequence
from .request import Receiver, Request, pages_for, token_array
from .sampler import NO_TOKEN, Draw, sample
from .sampling import SamplingParams
from .scheduler import Limits, Schedule, schedule
from .stats import EngineStats
from .tokenizer import Tokenizer


class RunnerInfo(Protocol):
    """What the engine needs to know about a model: sizes, and the bounds of a step."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def max_seqs(self) -> int: ...
    @property
    def num_pages(self) -> int: ...
    @property
    def page_tokens(self) -> int: ...


class Runner(Protocol):
    """Computes one step. It owns the memory of the cache; the engine only hands out page numbers."""

    @property
    def info(self) -> RunnerInfo: ...

    def forward(self, sequences: list[PlanSequence], tokens: np.ndarray, logit_rows: np.ndarray) -> np.ndarray:
        """Logits float32[r, vocab] of the rows `logit_rows` (int32[r], ascending) of the batch `tokens` (int32[n]).

        Rows stand in the order of `sequences`. Keys and values of all rows are stored as a side effect. The result may
        be overwritten by the next call.
        """
        ...


class Engine:
    """Serves requests on one runner. Not thread-safe: one thread adds requests and calls `step`."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer | None = None,
        *,
        eos_token_ids: Iterable[int] | None = None,
        chunk: int = 512,
        context_length: int | None = None,
    ) -> None:
        """`eos_token_ids` end a text (None: the tokenizer's end token), `chunk` is the most of a prompt in a step,
        `context_length` shortens the model's context."""
        self.runner = runner
        self.tokenizer = tokenizer
        self.stats = EngineStats()
        if eos_token_ids is None:
            eos_token_ids = [] if tokenizer is None or tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self._eos_ids = frozenset(int(i) for i in eos_token_ids)
        self._chunk = self._checked_chunk(chunk)
        self.context_length = runner.info.context_length if context_length is None else context_length
        if not 1 <= self.context_length <= runner.info.context_length:
            raise RequestError(f"context_length is {context_length}; the model takes 1 to {runner.info.context_length}")
        self._limits = Limits(runner.info.max_tokens, runner.info.max_seqs)
        self._pool = PagePool(runner.info.num_pages)
        self._running: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._ids: set[str] = set()
        self._numbers = itertools.count()

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._running or self._waiting)

    def prepare(
        self,
        prompt_ids: Sequence[int] | np.ndarray,
        params: SamplingParams | None = None,
        *,
        prompt: str | None = None,
        request_id: str | None = None,
        chunk: int | None = None,
    ) -> Request:
        """Check a request and build it, without adding it. RequestError says why it can never be served."""
        params = SamplingParams() if params is None else params
        ids = token_array(prompt_ids, self.runner.info.vocab_size)
        max_length = self._max_length(len(ids), params.max_tokens)
        if params.stop and self.tokenizer is None:
            raise RequestError("stop texts need a tokenizer, and this engine has none", fix="use stop_token_ids")
        vocab_size = self.runner.info.vocab_size
        for token in params.stop_token_ids or ():
            if token >= vocab_size:
                raise RequestError(f"SamplingParams.stop_token_ids has {token}; the model knows 0 to {vocab_size - 1}")
        return Request(
            self._new_id(request_id),
            ids,
            max_length=max_length,
            chunk=self._chunk if chunk is None else self._checked_chunk(chunk),
            params=params,
            seed=secrets.randbits(64) if params.seed is None else params.seed,
            prompt=prompt,
            detokenizer=None if self.tokenizer is None else Detokenizer(self.tokenizer, tuple(params.stop or ())),
            end_ids=frozenset(params.stop_token_ids or ()) | (frozenset() if params.ignore_eos else self._eos_ids),
            page_tokens=self.runner.info.page_tokens,
        )

    def prepare_scoring(
        self, token_ids: Sequence[int] | np.ndarray, receive: Receiver, *, first: int = 0, chunk: int | None = None
    ) -> Request:
        """Like `prepare`, for logits: `receive` gets those of all positions from `first` on, ascending, some every step."""
        info = self.runner.info
        ids = token_array(token_ids, info.vocab_size)
        if len(ids) > self.context_length:
            raise self._too_long(len(ids), "all tokens must be in the context at once")
        if not 0 <= first < len(ids):
            raise RequestError(f"logits are wanted from position {first} on; the positions are 0 to {len(ids) - 1}")
        self._check_pages(len(ids), f"{len(ids)} tokens")
        return Request(
            self._new_id(None),
            ids,
            max_length=len(ids),
            chunk=self._chunk if chunk is None else self._checked_chunk(chunk),
            receive=receive,
            first=first,
            page_tokens=info.page_tokens,
        )

    def add(self, request: Request) -> str:
        """Queue a prepared request; returns its id. RequestError where the id is in use."""
        if request.request_id in self._ids:
            raise RequestError(f"request id {request.request_id!r} is in use by an unfinished request")
        request.arrival = time.perf_counter()
        self._ids.add(request.request_id)
        self._waiting.append(request)
        return request.request_id

    def add_request(
        self,
        prompt_ids: Sequence[int] | np.ndarray,
        params: SamplingParams | None = None,
        *,
        prompt: str | None = None,
        request_id: str | None = None,
        chunk: int | None = None,
    ) -> str:
        """`prepare` and `add` in one: check a request, queue it and return its id."""
        return self.add(self.prepare(prompt_ids, params, prompt=prompt, request_id=request_id, chunk=chunk))

    def abort(self, request_id: str) -> bool:
        """Forget a request and free its pages; False where there is no such unfinished request."""
        for request in itertools.chain(self._running, self._waiting) if request_id in self._ids else ():
            if request.request_id == request_id:
                self._remove(request)
                return True
        return False

    def step(self) -> list[StepOutput]:
        """Serve one batch; returns what it brought to the requests that got something. Empty where there is no work."""
        if not self.has_work:
            return []
        begin = time.perf_counter()
        plan = schedule(self._running, self._waiting, self._pool.num_free, self._limits)
        self._reserve(plan, begin)
        served = [(request, request.computed, rows) for request, rows in plan.rows.items()]
        if not served:
            raise RuntimeError("the scheduler served nobody although requests wait")
        compiled = 0.0
        try:
            logits, compiled = self._run(served)
            tokens = self._choose(served, logits)
        except Exception as error:
            outputs = [self._fail(request, error) for request, _, _ in served]
        else:
            outputs = self._commit(served, logits, tokens)
        self.stats.record(
            [(rows, start < request.num_prompt) for request, start, rows in served],
            time.perf_counter() - begin,
            compiled,
            len(plan.preempted),
        )
        return outputs

    def check_integrity(self) -> None:
        """RuntimeError unless pages, queues and ids agree. Holds after every step; cheap enough for tests only."""
        self._pool.check_integrity(request.pages for request in self._running)
        everyone = [*self._running, *self._waiting]
        if {request.request_id for request in everyone} != self._ids or len(everyone) != len(self._ids):
            raise RuntimeError("engine: the queues and the ids disagree")
        if any(request.num_pages or request.computed for request in self._waiting):
            raise RuntimeError("engine: a waiting request holds pages")
        if [r.arrival for r in everyone] != sorted(r.arrival for r in everyone):
            raise RuntimeError("engine: requests are out of order")

    # A step's parts.

    def _reserve(self, plan: Schedule, now: float) -> None:
        """Move requests between the queues and pages to their owners, as planned."""
        for request in plan.preempted:
            self._running.remove(request)
            self._pool.release(request.drop_pages())
            request.preemptions += 1
            self._waiting.appendleft(request)
        for request in plan.admitted:
            self._waiting.popleft()
            self._running.append(request)
            request.add_pages(self._pool.allocate(request.pages_to_admit))
            if request.first_scheduled is None:
                request.first_scheduled = now
        for request, rows in plan.rows.items():
            if missing := request.missing_pages(request.computed + rows):
                request.add_pages(self._pool.allocate(missing))

    def _run(self, served: list[tuple[Request, int, int]]) -> tuple[np.ndarray, float]:
        """Logits of the rows that anybody wants, in order, and the seconds inside the runner."""
        sequences = [PlanSequence(request.pages, start, rows) for request, start, rows in served]
        tokens = np.concatenate([request.tokens[start : start + rows] for request, start, rows in served])
        wanted, first = [], 0
        for request, start, rows in served:
            wanted.append(np.arange(first + rows - _wanted(request, start, rows), first + rows, dtype=np.int32))
            first += rows
        begin = time.perf_counter()
        logits = self.runner.forward(sequences, tokens, np.concatenate(wanted))
        return logits, time.perf_counter() - begin

    def _choose(self, served: list[tuple[Request, int, int]], logits: np.ndarray) -> dict[Request, int]:
        """The next token of each request whose last pending token was served."""
        draws, chosen, rows_of = [], [], []
        first = 0
        for request, start, rows in served:
            wanted = _wanted(request, start, rows)
            if wanted and request.params is not None:
                chosen.append(request)
                rows_of.append(first)
                draws.append(Draw(request.params, request.seed, request.num_tokens))
            first += wanted
        if len(logits) != first:
            raise RuntimeError(f"the runner returned {len(logits)} rows of logits, {first} were asked for")
        if not chosen:
            return {}
        picked = sample(logits if len(chosen) == first else logits[rows_of], draws)
        return dict(zip(chosen, picked.tolist(), strict=True))

    def _commit(
        self, served: list[tuple[Request, int, int]], logits: np.ndarray, tokens: dict[Request, int]
    ) -> list[StepOutput]:
        """Hand the results over to the requests."""
        outputs, first = [], 0
        for request, start, rows in served:
            wanted = _wanted(request, start, rows)
            request.computed += rows
            try:
                if request.receive is not None:
                    if wanted:
                        request.receive(start + rows - wanted, logits[first : first + wanted])
                        request.scored = start + rows
                    if request.pending == 0:
                        outputs.append(StepOutput(request.request_id, output=self._finish(request, [])))
                elif wanted:
                    outputs.append(self._accept(request, tokens[request]))
            except Exception as error:  # whatever is wrong with this request, the others go on
                outputs.append(self._fail(request, error))
            first += wanted
        return outputs

    def _accept(self, request: Request, token: int) -> StepOutput:
        """Append a chosen token and decide whether it was the last."""
        if token == NO_TOKEN:
            raise HeddleError(
                f"the logits of request {request.request_id!r} at position {request.num_tokens - 1} are not finite",
                "no token can be chosen from them",
                "check the weights of the model; weights or activations may overflow their type",
            )
        request.append(token)
        if request.first_token is None:
            request.first_token = time.perf_counter()
        text = ""
        reason: str | None = None
        cause: str | int | None = None
        texts = request.detokenizer
        if token in request.end_ids:
            reason = "stop"
            cause = token if request.params is not None and token in (request.params.stop_token_ids or ()) else None
        else:
            text = texts.push(token) if texts else ""
            reason = "length" if request.num_tokens == request.max_length else None
        if texts and reason and not texts.found:
            text += texts.finish()
        if texts and texts.found:
            reason, cause = "stop", texts.found
        if reason is None:
            return StepOutput(request.request_id, text, (token,))
        generated = tuple(request.generated.tolist())
        completion = CompletionOutput(0, texts.text if texts else "", generated, reason, cause)
        return StepOutput(request.request_id, text, (token,), self._finish(request, [completion]))

    def _finish(self, request: Request, completions: list[CompletionOutput]) -> RequestOutput:
        self._remove(request)
        metrics = RequestMetrics(
            request.arrival, request.first_scheduled, request.first_token, time.perf_counter(), request.preemptions
        )
        prompt_ids = tuple(request.prompt_ids.tolist())
        return RequestOutput(request.request_id, request.prompt, prompt_ids, completions, True, metrics)

    def _fail(self, request: Request, error: Exception) -> StepOutput:
        self._remove(request)
        return StepOutput(request.request_id, error=error)

    def _remove(self, request: Request) -> None:
        (self._running if request in self._running else self._waiting).remove(request)
        self._pool.release(request.drop_pages())
        self._ids.discard(request.request_id)

    # Checks of a request.

    def _new_id(self, request_id: str | None) -> str:
        return f"request-{next(self._numbers)}" if request_id is None else request_id

    def _checked_chunk(self, chunk: int) -> int:
        if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
            raise RequestError(f"chunk is {chunk!r}; allowed is an integer, 1 or more (tokens of one prompt in a step)")
        return chunk

    def _max_length(self, prompt: int, max_tokens: int | None) -> int:
        """Tokens of the finished sequence at most: what the request asks for, cut at the model's context."""
        info = self.runner.info
        if prompt >= self.context_length:
            raise self._too_long(prompt, "the context must have room for one more token at least")
        if max_tokens is None:
            self._check_pages(prompt, f"a prompt of {prompt} tokens")
            return min(self.context_length, info.num_pages * info.page_tokens + 1)
        length = min(prompt + max_tokens, self.context_length)
        self._check_pages(length - 1, f"a prompt of {prompt} tokens with max_tokens={max_tokens}")
        return length

    def _too_long(self, tokens: int, why: str) -> RequestError:
        return RequestError(
            f"the prompt has {tokens} tokens; the context holds {self.context_length}", why, "shorten the prompt"
        )

    def _check_pages(self, tokens: int, what: str) -> None:
        info = self.runner.info
        needed = pages_for(tokens, info.page_tokens)
        if needed > info.num_pages:
            raise RequestError(
                f"{what} needs {needed} pages of the KV cache; the pool has {info.num_pages}",
                f"a page holds {info.page_tokens} tokens, and a request must fit by itself",
                "shorten the prompt, lower max_tokens, or load the model with more kv_memory",
            )


def _wanted(request: Request, start: int, rows: int) -> int:
    """How many of the last served rows need logits: what scoring asks for, or one at the end of the sequence."""
    if request.receive is not None:
        return max(0, min(rows, start + rows - request.scored))
    return int(start + rows == request.num_tokens)
