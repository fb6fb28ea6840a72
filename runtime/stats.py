"""Where the engine's time goes: tokens and seconds of all steps, with the shares of compiled code and of the sampler; and
what it does now and has done so far, as numbers."""

from __future__ import annotations

import bisect
import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batch import Batch
    from .engine import Engine

STEP_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Upper bounds, inclusive, of the sizes in which steps are counted; vLLM's."""


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
    sizes: list[int] = dataclasses.field(default_factory=lambda: [0] * (len(STEP_BOUNDS) + 1))
    """Steps by their number of tokens, up to each of STEP_BOUNDS and beyond the last."""

    def record(self, batch: Batch, seconds: float, preemptions: int, swaps: int) -> None:
        """Add a step that served `batch`, whose requests are still where they were when it was made."""
        of_prompt = [part.rows for part in batch.parts if part.start < part.request.num_prompt]
        others = [part.rows for part in batch.parts if part.start >= part.request.num_prompt]
        alone = not of_prompt and all(rows == 1 for rows in others)
        phase = self.decode if alone else self.prefill
        phase.steps += 1
        self.sizes[bisect.bisect_left(STEP_BOUNDS, sum(of_prompt) + sum(others))] += 1
        phase.prefill_tokens += sum(of_prompt)
        phase.decode_tokens += sum(others)
        phase.seconds += seconds
        phase.compiled_seconds += batch.run_seconds
        phase.sample_seconds += batch.sample_seconds
        self.preemptions += preemptions
        self.swaps += swaps


@dataclasses.dataclass(frozen=True)
class EngineMetrics:
    """A snapshot; any thread may take it, and then numbers of one step may be missing in some of its fields.

    Now: running and waiting requests; free pages of the KV pool (those that only the prefix cache holds included) of all.
    Since the start: steps and their seconds; prompt and generated tokens that were computed; prompt tokens that came from
    the prefix cache, of those that were looked up there; pages evicted from it; preemptions, and those of them by swapping;
    steps by their number of tokens (`EngineStats.sizes`). Always: the tokens of a page, and whether there is a prefix cache.
    """

    running: int
    waiting: int
    free_pages: int
    num_pages: int
    steps: int
    seconds: float
    prefill_tokens: int
    decode_tokens: int
    cached_tokens: int
    looked_up_tokens: int
    evictions: int
    preemptions: int
    swaps: int
    step_sizes: tuple[int, ...]
    page_tokens: int
    prefix_cache: bool

    @classmethod
    def of(cls, engine: Engine) -> EngineMetrics:
        """The numbers of `engine`."""
        stats, kv = engine.stats, engine.kv
        phases = (stats.prefill, stats.decode)
        return cls(
            len(engine.running),
            len(engine.waiting),
            kv.num_free,
            kv.num_pages,
            sum(phase.steps for phase in phases),
            sum(phase.seconds for phase in phases),
            sum(phase.prefill_tokens for phase in phases),
            sum(phase.decode_tokens for phase in phases),
            kv.stats.hit_tokens,
            kv.stats.query_tokens,
            kv.stats.evictions,
            stats.preemptions,
            stats.swaps,
            tuple(stats.sizes),
            kv.page_tokens,
            kv.prefix_cache,
        )
