"""What a caller sees of a request while it is served: its parts, or all so far, or only the end."""

from __future__ import annotations

import dataclasses

from .runtime.errors import RequestError
from .runtime.outputs import CompletionOutput, LogprobTable, RequestOutput, StepOutput
from .runtime.request import Request

KINDS = ("cumulative", "delta", "final")


@dataclasses.dataclass
class Text:
    """One sample so far."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    reason: str | None = None
    logprobs: list[LogprobTable] = dataclasses.field(default_factory=list)


class Increments:
    """Turns the steps of one request into outputs.

    kind: "cumulative" has all samples with all that they have so far, "delta" the sample that moved on with what is new,
    "final" is the result alone. Where best_of is more than n, which samples come back is known at the end only.
    """

    def __init__(self, request: Request, kind: str) -> None:
        if kind not in KINDS:
            raise RequestError(f"output_kind is {kind!r}; allowed are {', '.join(map(repr, KINDS))}")
        self._request, self._kind = request, kind
        self._prompt_ids = tuple(request.prompt_ids.tolist())
        self._texts: dict[int, Text] = {}

    def take(self, step: StepOutput) -> RequestOutput | None:
        """The output after a step, None where it brought nothing to see."""
        end = step.output
        if self._kind == "final" or not self._request.group.streams or (end and self._kind == "cumulative"):
            return end
        if not (end or step.token_ids or step.text or step.finish_reason):
            return None
        completions = [self._delta(step)] if self._kind == "delta" else self._all(step)
        return RequestOutput(
            step.request_id,
            self._request.prompt,
            self._prompt_ids,
            completions,
            end is not None,
            end.metrics if end else None,
            end.prompt_logprobs if end else None,
        )

    def _delta(self, step: StepOutput) -> CompletionOutput:
        whole = step.output.outputs[step.index] if step.output else None
        return CompletionOutput(
            step.index,
            step.text,
            step.token_ids,
            step.finish_reason,
            whole.stop_reason if whole else None,
            whole.cumulative_logprob if whole else None,
            step.logprobs,
        )

    def _all(self, step: StepOutput) -> list[CompletionOutput]:
        moved = self._texts.setdefault(step.index, Text())
        moved.text += step.text
        moved.tokens += step.token_ids
        moved.logprobs += step.logprobs or []
        moved.reason = step.finish_reason
        return [
            CompletionOutput(i, t.text, t.tokens, t.reason, logprobs=list(t.logprobs) or None)
            for i, t in sorted(self._texts.items())
        ]
