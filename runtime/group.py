"""The samples of one prompt (n, best_of): computed once up to the first token, then forked into one sequence each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from .outputs import CompletionOutput, RequestMetrics, RequestOutput

if TYPE_CHECKING:
    from .request import Request


class Group:
    """What one call asked for: `n` of `width` samples, each a `Request` of its own once the prompt is computed.

    `samples` are all that there are, the `live` ones unfinished; before the fork that is the `lead` alone, which becomes
    sample 0.
    """

    def __init__(self, lead: Request) -> None:
        self.lead = lead
        self.samples: list[Request] = [lead]
        self.live: list[Request] = [lead]
        self.n = 1 if lead.params is None else lead.params.n
        self.width = 1 if lead.params is None else lead.params.samples
        self.preemptions = 0
        self.forked = self.width == 1
        self._completions: list[CompletionOutput] = []

    @property
    def streams(self) -> bool:
        """Whether every sample comes back, so that its text can go out as it comes."""
        return self.n == self.width

    def end(self, request: Request, completion: CompletionOutput | None) -> None:
        """`request` is finished, with `completion` unless it was scoring."""
        self.live.remove(request)
        if completion is not None:
            self._completions.append(completion)

    def output(self, now: float) -> RequestOutput:
        """The result: the most likely `n` completions, or all in order. Ties go to the earlier sample."""
        lead = self.lead
        found = sorted(self._completions, key=lambda c: c.index)
        if not self.streams:
            found = sorted(found, key=lambda c: -(c.cumulative_logprob or 0.0))[: self.n]
            found = [dataclasses.replace(completion, index=i) for i, completion in enumerate(found)]
        metrics = RequestMetrics(
            lead.arrival, lead.first_scheduled, lead.first_token, now, self.preemptions, lead.cached_tokens
        )
        wanted = lead.params is not None and lead.params.prompt_logprobs is not None
        prompt_ids = tuple(lead.prompt_ids.tolist())
        logprobs = lead.prompt_logprobs if wanted else None
        return RequestOutput(lead.request_id, lead.prompt, prompt_ids, found, True, metrics, logprobs)
