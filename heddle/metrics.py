"""What an engine does now and has done so far, as numbers."""

from __future__ import annotations

import dataclasses

from .runtime.engine import Engine


@dataclasses.dataclass(frozen=True)
class EngineMetrics:
    """A snapshot; any thread may take it, and then numbers of one step may be missing in some of its fields.

    Now: running and waiting requests; free pages of the KV pool (those that only the prefix cache holds included) of all.
    Since the start: steps and their seconds; prompt and generated tokens that were computed; prompt tokens that came from
    the prefix cache, of those that were looked up there; pages evicted from it; preemptions, and those of them by swapping.
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
        )
