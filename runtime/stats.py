"""Where the engine's time goes: tokens and seconds of all steps, with the share of compiled code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass
class PhaseStats:
    """Sums over some steps. `seconds` is the whole time of the steps, `compiled_seconds` the part inside the runner."""

    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    seconds: float = 0.0
    compiled_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """All tokens served per second, 0 before the first step."""
        return (self.prefill_tokens + self.decode_tokens) / self.seconds if self.seconds else 0.0

    @property
    def python_share(self) -> float:
        """Part of the time outside of the runner: scheduling, sampling, detokenization; 0 to 1."""
        return 1 - self.compiled_seconds / self.seconds if self.seconds else 0.0


@dataclasses.dataclass
class EngineStats:
    """Sums since the engine started: `decode` over steps of decodes alone, `prefill` over all others.

    Tokens of a prompt count as prefill tokens, generated tokens that are fed back as decode tokens, also when they are
    computed again after a preemption.
    """

    prefill: PhaseStats = dataclasses.field(default_factory=PhaseStats)
    decode: PhaseStats = dataclasses.field(default_factory=PhaseStats)
    preemptions: int = 0

    def record(
        self, rows: Sequence[tuple[int, bool]], seconds: float, compiled_seconds: float, preemptions: int
    ) -> None:
        """Add a step that served `rows`: the number of tokens of each request, and whether they are of its prompt."""
        alone = all(count == 1 and not of_prompt for count, of_prompt in rows)
        phase = self.decode if alone else self.prefill
        phase.steps += 1
        phase.prefill_tokens += sum(count for count, of_prompt in rows if of_prompt)
        phase.decode_tokens += sum(count for count, of_prompt in rows if not of_prompt)
        phase.seconds += seconds
        phase.compiled_seconds += compiled_seconds
        self.preemptions += preemptions
