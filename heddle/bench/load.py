"""When requests are sent: at the times of a random process (open loop), or as others end (closed loop)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from .client import Answer
from .prompts import Ask

Send = Callable[[Ask, float], Awaitable[Answer]]
"""Takes what to ask and when it is due."""


def arrivals(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Seconds from the start at which requests come, `rate` of them a second in the mean, the first at once.

    The times between are drawn from a gamma distribution of shape `burstiness`: 1 is a Poisson process, less is burstier, more
    is steadier. An infinite rate sends all at once.
    """
    if math.isinf(rate):
        return [0.0] * count
    gaps = np.random.default_rng(seed).gamma(burstiness, 1 / (rate * burstiness), count)
    return [float(at) for at in np.cumsum(gaps) - gaps[0]] if count else []


async def open_loop(asks: Sequence[Ask], times: Sequence[float], send: Send, done: Callable[[], None]) -> list[Answer]:
    """Send each request at its time, whatever became of the others; answers in their order."""
    begin = time.perf_counter()

    async def one(ask: Ask, due: float) -> Answer:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        answer = await send(ask, due)
        done()
        return answer

    return list(await asyncio.gather(*(one(ask, begin + at) for ask, at in zip(asks, times, strict=True))))


async def closed_loop(asks: Sequence[Ask], concurrency: int, send: Send, done: Callable[[], None]) -> list[Answer]:
    """Keep `concurrency` requests under way; answers in their order."""
    answers: dict[int, Answer] = {}
    waiting = iter(enumerate(asks))

    async def worker() -> None:
        for i, ask in waiting:
            answers[i] = await send(ask, time.perf_counter())
            done()

    await asyncio.gather(*(worker() for _ in range(min(concurrency, len(asks)))))
    return [answers[i] for i in range(len(asks))]
