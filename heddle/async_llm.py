"""A model for many callers at once: their requests share its steps, wherever their event loops run."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import Prompt
from .engine_thread import AbortedError, EngineDeadError, EngineThread, Stream
from .increments import Increments
from .llm import LLM
from .opening import Quant
from .prompts import Messages
from .runtime.errors import HeddleError, RequestError
from .runtime.outputs import RequestOutput, StepOutput
from .runtime.request import Request
from .runtime.sampling import SamplingParams
from .runtime.stats import EngineMetrics
from .runtime.tokenizer import Tokenizer

__all__ = ["AbortedError", "AsyncLLM", "EngineDeadError"]

WHEN_FULL = ("error", "wait")
STEP_TOKENS = 128
"""Of a step by default: a prompt beside decodes holds their next tokens up for a tenth of a second on the 0.5B shape
(benchmarks/engine.py), and prefill loses under a tenth of its speed."""


class AsyncLLM:
    """A model that serves any number of tasks, in one event loop or in several (in threads of their own).

    Takes the options of `LLM` (`step_tokens` is 128 where it is not given), and when_full: what becomes of a request while
    `max_waiting` others wait, "error" (QueueFullError) or "wait". Loading takes seconds and blocks: in a loop,
    `await asyncio.to_thread(AsyncLLM, path)`.
    Use it as a context manager, or call `shutdown`.
    """

    def __init__(
        self,
        path: str | Path,
        quant: Quant = None,
        threads: int | None = None,
        *,
        when_full: str = "error",
        step_tokens: int | None = STEP_TOKENS,
        **options: Any,
    ) -> None:
        if when_full not in WHEN_FULL:
            raise RequestError(f"when_full is {when_full!r}; allowed are {', '.join(map(repr, WHEN_FULL))}")
        self._thread = EngineThread(
            functools.partial(LLM, path, quant, threads, step_tokens=step_tokens, **options), when_full == "wait"
        )
        self._prompts, self._engine = self._thread.llm.prompts, self._thread.llm.engine
        # Also at the interpreter's exit: compiled code must not run while the process is taken apart.
        self._finalizer = weakref.finalize(self, self._thread.stop)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; TokenizerError where it has none."""
        return self._prompts.tokenizer

    @property
    def metrics(self) -> EngineMetrics:
        """What the engine does now and has done so far."""
        return EngineMetrics.of(self._engine)

    @property
    def context_length(self) -> int:
        """Tokens of a prompt with its answer, at most."""
        return self._engine.context_length

    @property
    def failure(self) -> HeddleError | None:
        """Why nothing is served any more; None while requests are taken."""
        return self._thread.failure

    def conversation(
        self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None, **template_variables: Any
    ) -> str:
        """The text that `chat` gives to the model; it has the special tokens in it."""
        return self._prompts.conversation(messages, tools, **template_variables)

    def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        output_kind: str = "cumulative",
        request_id: str | None = None,
        priority: int = 0,
        tenant: str = "",
        timeout: float | None = None,
        salt: str = "",
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs as they come, for `async for`; the last one is `finished`.

        output_kind: "cumulative" (all so far), "delta" (what is new) or "final" (the result alone). RequestError for a bad
        request is raised here, other errors by the iterator. Cancelling the task or closing the iterator aborts the request;
        one that is not iterated at all is never sent.
        """
        request = self._prompts.text(
            prompt,
            sampling_params,
            request_id=request_id,
            priority=priority,
            tenant=tenant,
            timeout=timeout,
            salt=salt,
        )
        return self._serve(request, Increments(request, output_kind))

    def chat(
        self,
        messages: Messages,
        sampling_params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        output_kind: str = "cumulative",
        request_id: str | None = None,
        priority: int = 0,
        tenant: str = "",
        timeout: float | None = None,
        salt: str = "",
        **template_variables: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """The model's next turn in a conversation, as `generate` gives it; the other options are those of `LLM.chat`."""
        request = self._prompts.turn(
            messages,
            sampling_params,
            tools,
            template_variables,
            request_id=request_id,
            priority=priority,
            tenant=tenant,
            timeout=timeout,
            salt=salt,
        )
        return self._serve(request, Increments(request, output_kind))

    def text_length(self, truncate_prompt_tokens: int | None) -> int | None:
        """The tokens at which `embed` cuts a text, None where it does not."""
        return self._thread.llm.poolings.truncation(truncate_prompt_tokens, self._engine.admission.longest_text)

    async def embed(
        self,
        prompt: Prompt,
        pooling: str | None = None,
        normalize: bool | None = None,
        *,
        truncate_prompt_tokens: int | None = None,
        **options: Any,
    ) -> np.ndarray:
        """The embedding float32[width] of a text or token ids, as `LLM.embed` gives it.

        `options`: request_id, priority, tenant, timeout, salt.
        """
        pool = self._thread.llm.poolings.pool(pooling, normalize)
        truncate = self.text_length(truncate_prompt_tokens)
        stream = self._begin(self._prompts.embedding(prompt, pool, truncate, **options))
        step: StepOutput | None = None
        try:
            while step is None or not step.finished:
                step = await stream.next()
        finally:
            self._thread.close(stream)
        return pool.vector()

    def abort(self, request_id: str) -> None:
        """End a request: whoever iterates over it gets AbortedError. Nothing happens where it is finished."""
        self._thread.abort(request_id)

    def shutdown(self, drain: bool = False) -> None:
        """Stop serving: at once (open requests end with AbortedError), or with `drain` when all are finished. Blocks."""
        self._thread.stop(drain)
        self._finalizer.detach()

    async def _serve(self, request: Request, increments: Increments) -> AsyncGenerator[RequestOutput, None]:
        stream = self._begin(request)
        finished = False
        try:
            while not finished:
                step = await stream.next()
                finished = step.finished
                output = increments.take(step)
                if output is not None:
                    yield output
        finally:
            if not finished:
                self._thread.close(stream)

    def _begin(self, request: Request) -> Stream:
        stream = Stream(request, asyncio.get_running_loop())
        self._thread.submit(stream)
        return stream

    def __enter__(self) -> AsyncLLM:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finishes what is open, or aborts it after an exception."""
        self.shutdown(drain=kind is None)

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await asyncio.to_thread(self.shutdown, drain=kind is None)
