"""What comes back from requests. The names are vLLM's."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Logprob:
    """Log probability of a token by the model's logits; `rank` counts from 1 (the most likely)."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


LogprobTable = dict[int, Logprob]
"""The chosen (or the prompt's) token at one position and the most likely ones, by token id."""


@dataclasses.dataclass(frozen=True)
class CompletionOutput:
    """One generated text.

    `token_ids` are all generated tokens, the ending one included; `text` is their decoding without the end token and
    without the stop text. `finish_reason` is "stop" (an end token or stop text came), "length" (max_tokens or the context
    is reached) or "timeout" (the deadline passed; this is what there was until then). `stop_reason` is the stop text or
    stop token id of the request that ended it, None for the model's end token. `logprobs` has a table per token and
    `cumulative_logprob` the sum over the chosen ones, where the request asked for them.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    stop_reason: str | int | None = None
    cumulative_logprob: float | None = None
    logprobs: list[LogprobTable] | None = None


@dataclasses.dataclass(frozen=True)
class RequestMetrics:
    """When things happened to a request, in seconds of `time.perf_counter`; None where they never did.

    `cached_tokens` of the prompt came from the prefix cache.
    """

    arrival: float
    first_scheduled: float | None
    first_token: float | None
    finished: float
    preemptions: int
    cached_tokens: int = 0

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from arrival to the first token."""
        return None if self.first_token is None else self.first_token - self.arrival

    @property
    def queue_seconds(self) -> float:
        """Seconds from arrival to the first step (or to the end, where there was none)."""
        return (self.finished if self.first_scheduled is None else self.first_scheduled) - self.arrival

    @property
    def prefill_seconds(self) -> float:
        """Seconds from the first step to the first token (or to the end, where there was none)."""
        if self.first_scheduled is None:
            return 0.0
        return (self.finished if self.first_token is None else self.first_token) - self.first_scheduled

    @property
    def decode_seconds(self) -> float:
        """Seconds from the first token to the end."""
        return 0.0 if self.first_token is None else self.finished - self.first_token


@dataclasses.dataclass(frozen=True)
class RequestOutput:
    """The result of one prompt; `prompt` is None where token ids were given.

    `prompt_logprobs` has a table per prompt token, None for the first, where the request asked for them.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics | None = None
    prompt_logprobs: list[LogprobTable | None] | None = None

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of the prompt that came from the prefix cache."""
        return self.metrics.cached_tokens if self.metrics else 0


@dataclasses.dataclass(frozen=True)
class StepOutput:
    """What one step brought for one request: new text and new tokens, and at its end either `output` or `error`.

    With n > 1 there is one for each sample that moved on; `index` says which, `finish_reason` that this sample ended.
    Nothing is told of the samples before the end where `best_of` is more than n.
    """

    request_id: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    output: RequestOutput | None = None
    error: Exception | None = None
    index: int = 0
    finish_reason: str | None = None
    logprobs: list[LogprobTable] | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more comes for this request."""
        return self.output is not None or self.error is not None
