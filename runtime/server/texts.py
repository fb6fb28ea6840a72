"""The samples of one prompt, gathered from deltas; and several prompts served as one stream."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence

from ..outputs import CompletionOutput, LogprobTable, RequestOutput
from .sse import stopped

Outputs = AsyncGenerator[RequestOutput, None]
AT_ONCE = 32
"""Prompts of one request that are in the engine at a time."""


@dataclasses.dataclass
class Sample:
    """One text so far."""

    pieces: list[str] = dataclasses.field(default_factory=list)
    tokens: int = 0
    reason: str | None = None
    stop: str | int | None = None
    logprobs: list[LogprobTable] = dataclasses.field(default_factory=list)

    def add(self, delta: CompletionOutput) -> None:
        """What is new."""
        self.pieces.append(delta.text)
        self.tokens += len(delta.token_ids)
        self.logprobs += delta.logprobs or ()
        self.reason = delta.finish_reason or self.reason
        self.stop = delta.stop_reason if delta.stop_reason is not None else self.stop

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


@dataclasses.dataclass
class Texts:
    """All samples of one prompt."""

    samples: dict[int, Sample] = dataclasses.field(default_factory=dict)
    cached: int = 0
    prompt_logprobs: Sequence[LogprobTable | None] | None = None

    def add(self, output: RequestOutput) -> None:
        """A delta."""
        for delta in output.outputs:
            self.samples.setdefault(delta.index, Sample()).add(delta)
        if output.finished:
            self.cached = output.num_cached_tokens
            self.prompt_logprobs = output.prompt_logprobs

    @property
    def tokens(self) -> int:
        """Generated tokens of all samples."""
        return sum(sample.tokens for sample in self.samples.values())


async def gather(outputs: Outputs) -> Texts:
    """All of one prompt."""
    found = Texts()
    async with contextlib.aclosing(outputs):
        async for output in outputs:
            found.add(output)
    return found


async def together(makers: Sequence[Callable[[], Outputs]]) -> AsyncGenerator[tuple[int, RequestOutput], None]:
    """What comes of several prompts, as it comes, with the prompt's number. The first error ends all."""
    if len(makers) == 1:
        async with contextlib.aclosing(makers[0]()) as only:
            async for output in only:
                yield 0, output
        return
    places, queue = asyncio.Semaphore(AT_ONCE), asyncio.Queue[tuple[int, RequestOutput] | Exception | None](AT_ONCE)

    async def pump(number: int, make: Callable[[], Outputs]) -> None:
        async with places:
            try:
                async with contextlib.aclosing(make()) as outputs:
                    async for output in outputs:
                        await queue.put((number, output))
                await queue.put(None)
            except Exception as error:
                await queue.put(error)

    tasks = [asyncio.ensure_future(pump(number, make)) for number, make in enumerate(makers)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        await stopped(*tasks)
