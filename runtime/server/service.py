"""What all endpoints share: the model with its names, its requests with their measures, and a place for slow work."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request

from ..errors import ContextLengthError
from ..outputs import RequestOutput
from ..sampling import SamplingParams
from ..text_bound import keeps_length
from ..tokenizer import TokenizerError
from .errors import ServerError
from .lifecycle import Lifecycle
from .metrics import Metrics
from .model import Messages, Model
from .settings import Settings
from .tools import ToolFormat, tool_format

SHORT = 4096
"""Characters that are tokenized in the event loop, in about a millisecond; what is longer goes to a thread."""
WORKERS = 2
EMBEDDINGS = 32
"""Inputs of one request that are in the engine at a time."""
T = TypeVar("T")


class Service:
    """One model as its endpoints see it."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.metrics = Metrics(model, settings.names[0])
        self.lifecycle = Lifecycle(settings.max_requests)
        self.created = int(time.time())
        self.tools = _tool_format(model, settings)
        self._workers = ThreadPoolExecutor(WORKERS, "heddle prepare")

    def close(self) -> None:
        """Let the workers go."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def check_name(self, name: str | None) -> str:
        """The name by which an answer calls the model; ServerError for one that is not served. None is the first."""
        if name is None or name in self.settings.names:
            return name or self.settings.names[0]
        known = ", ".join(self.settings.names)
        raise ServerError(
            404, f"the model {name[:256]!r} does not exist; served are: {known}", param="model", code="model_not_found"
        )

    # From what a client sends to token ids.

    async def work(self, slow: bool, function: Callable[[], T]) -> T:
        """The result of `function`, called in a thread where it is `slow`."""
        if not slow:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._workers, function)

    async def tokens(self, text: str, add_special_tokens: bool = True, truncate: int | None = None) -> list[int]:
        """Token ids of a text, at most `truncate`. ContextLengthError where it is too long to fit, however it is tokenized."""
        tokenizer, most = self.model.tokenizer, self.model.context_length
        if truncate is not None:
            return await self.work(len(text) > SHORT, lambda: tokenizer.encode_start(text, truncate))
        if len(text) > SHORT:
            per_token = tokenizer.bytes_per_token
            if per_token and len(text.encode()) > most * per_token and keeps_length(text):
                raise ContextLengthError(
                    f"the prompt has {len(text)} characters; the context holds {most} tokens",
                    f"no token stands for more than {per_token} bytes",
                    "shorten the prompt",
                )
        return await self.work(len(text) > SHORT, lambda: tokenizer.encode(text, add_special_tokens, most))

    async def conversation(
        self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None, variables: Mapping[str, Any]
    ) -> list[int]:
        """Token ids of a conversation."""
        text = await self.work(
            len(messages) > 64 or any(len(str(m.get("content"))) > SHORT for m in messages),
            lambda: self.model.conversation(messages, tools, **variables),
        )
        return await self.tokens(text, add_special_tokens=False)  # they are in the text

    # Requests.

    async def outputs(
        self,
        request: Request,
        prompt: Sequence[int],
        params: SamplingParams,
        options: Mapping[str, Any],
        request_id: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """What comes of a prompt, as deltas; closing the iterator aborts it. Errors are raised at the first step."""
        meter = self.metrics.begin(len(prompt), params)
        state, reason = request.scope.setdefault("state", {}), "abort"
        state["prompt_tokens"] = state.get("prompt_tokens", 0) + len(prompt)
        try:
            slow = len(prompt) > SHORT or params.structured is not None
            stream = await self.work(
                slow,
                lambda: self.model.generate(prompt, params, output_kind="delta", request_id=request_id, **options),
            )
            async with contextlib.aclosing(stream):
                async for output in stream:
                    meter.output(output)
                    if output.finished:
                        reason = output.outputs[-1].finish_reason or "stop"
                    yield output
        except Exception:
            reason = "error"
            raise
        finally:
            state["generated_tokens"] = state.get("generated_tokens", 0) + meter.generated_tokens
            meter.end(reason)

    async def embeddings(
        self, request: Request, prompts: Sequence[Sequence[int]], pooling: str | None, normalize: bool | None
    ) -> list[np.ndarray]:
        """An embedding float32[hidden] for each prompt."""
        places = asyncio.Semaphore(EMBEDDINGS)
        state = request.scope.setdefault("state", {})
        state["prompt_tokens"] = sum(map(len, prompts))

        async def embed(prompt: Sequence[int]) -> np.ndarray:
            async with places:
                meter, reason = self.metrics.begin(len(prompt), None), "abort"
                try:
                    found = await self.model.embed(prompt, pooling, normalize)
                    reason = "stop"
                    return found
                except Exception:
                    reason = "error"
                    raise
                finally:
                    meter.end(reason)

        return await all_of([embed(prompt) for prompt in prompts])


async def all_of(work: Sequence[Any]) -> list[Any]:
    """The results of all coroutines, in order; the first error cancels the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tool_format(model: Model, settings: Settings) -> ToolFormat | None:
    """How the model writes calls; None where it does not, or nobody knows."""
    try:
        tokenizer = model.tokenizer
    except TokenizerError:  # it takes token ids only
        return None
    if settings.tools == "none":
        return None
    return tool_format(settings.tools, tokenizer.chat_template(tools=True), tokenizer)


def new_id(kind: str) -> str:
    """An id such as `chatcmpl-...`."""
    return f"{kind}-{uuid.uuid4().hex}"
