"""What comes back from requests. The names are vLLM's."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class CompletionOutput:
    """One generated text.

    `token_ids` are all generated tokens, the ending one included; `text` is their decoding without the end token and
    without the stop text. `finish_reason` is "stop" (an end token or stop text came) or "length" (max_tokens or the
    context is reached); `stop_reason` is the stop text or stop token id of the request that ended it, None for the
    model's end token.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    stop_reason: str | int | None = None


@dataclasses.dataclass(frozen=True)
class RequestMetrics:
    """When things happened to a request, in seconds of `time.perf_counter`; None where they never did."""

    arrival: float
    first_scheduled: float | None
    first_token: float | None
    finished: float
    preemptions: int

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from arrival to the first token."""
        return None if self.first_token is None else self.first_token - self.arrival


@dataclasses.dataclass(frozen=True)
class RequestOutput:
    """The result of one prompt; `prompt` is None where token ids were given."""

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics | None = None


@dataclasses.dataclass(frozen=True)
class StepOutput:
    """What one step brought for one request: new text and new tokens, and at its end either `output` or `error`."""

    request_id: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    output: RequestOutput | None = None
    error: Exception | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more comes for this request."""
        return self.output is not None or self.error is not None
