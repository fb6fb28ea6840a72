"""Where the engine's time goes: tokens and seconds of all steps, with the shares of compiled code and of the sampler."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batch import Batch


@dataclasses.dataclass
class PhaseStats:
    """Sums over some steps. `seconds` is the whole time of the steps, `compiled_seconds` the part inside the runner and
    `sample_seconds` the part inside the sampler."""

    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    seconds: float = 0.0
    compiled_seconds: float = 0.0
    sample_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """All tokens served per second, 0 before the first step."""
        return (self.prefill_tokens + self.decode_tokens) / self.seconds if self.seconds else 0.0

    @property
    def python_share(self) -> float:
        """Part of the time outside of the runner and the sampler: scheduling, pages, detokenization; 0 to 1."""
        return 1 - (self.compiled_seconds + self.sample_seconds) / self.seconds if self.seconds else 0.0


@dataclasses.dataclass
class EngineStats:
    """Sums since the engine started: `decode` over steps of decodes alone, `prefill` over all others.

    Tokens of a prompt count as prefill tokens, generated tokens that are fed back as decode tokens, also when they are
    computed again after a preemption. `preemptions` counts those by swapping too, which `swaps` counts alone.
    """

    prefill: PhaseStats = dataclasses.field(default_factory=PhaseStats)
    decode: PhaseStats = dataclasses.field(default_factory=PhaseStats)
    preemptions: int = 0
    swaps: int = 0

    def record(self, batch: Batch, seconds: float, preemptions: int, swaps: int) -> None:
        """Add a step that served `batch`, whose requests are still where they were when it was made."""
        of_prompt = [part.rows for part in batch.parts if part.start < part.request.num_prompt]
        others = [part.rows for part in batch.parts if part.start >= part.request.num_prompt]
        alone = not of_prompt and all(rows == 1 for rows in others)
        phase = self.decode if alone else self.prefill
        phase.steps += 1
        phase.prefill_tokens += sum(of_prompt)
        phase.decode_tokens += sum(others)
        phase.seconds += seconds
        phase.compiled_seconds += batch.run_seconds
        phase.sample_seconds += batch.sample_seconds
        self.preemptions += preemptions
        self.swaps += swaps
