"""A model that says what it is told to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from heddle import AsyncLLM, SamplingParams
from heddle.runtime.outputs import CompletionOutput, RequestMetrics, RequestOutput


class Scripted(AsyncLLM):
    """Answers with `pieces` of text, then with `error` where there is one; keeps what it was asked."""

    pieces: Sequence[str] = ()
    reason = "stop"
    error: Exception | None = None
    asked: tuple[str, SamplingParams] | None = None

    async def generate(  # type: ignore[override]
        self, prompt: Any, sampling_params: SamplingParams | None = None, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        params = sampling_params or SamplingParams()
        self.asked = self.tokenizer.decode(prompt, skip_special_tokens=False), params
        ends = [None] * len(self.pieces) + [None if self.error else self.reason]
        for number, (piece, reason) in enumerate(zip([*self.pieces, ""], ends, strict=True)):
            if self.error is not None and number == len(self.pieces):
                raise self.error
            for index in range(params.n):
                done = reason is not None and index == params.n - 1
                metrics = RequestMetrics(0.0, 0.0, 0.0, 1.0, 0, 16) if done else None
                delta = CompletionOutput(index, piece, (5,) if piece else (), reason)
                yield RequestOutput("r", None, tuple(prompt), [delta], done, metrics)
