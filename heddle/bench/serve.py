"""Measuring a server: one run for each load that is asked for."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..runtime.errors import HeddleError
from .client import Answer, Client, Endpoint
from .figures import summary
from .load import arrivals, closed_loop, open_loop
from .prompts import Ask

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Load:
    """Requests a second that come whatever happens (open loop), or else so many under way at all times (closed loop)."""

    rate: float | None = None
    concurrency: int | None = None
    burstiness: float = 1.0

    def named(self) -> dict[str, Any]:
        """The load's numbers under vLLM's names."""
        limits = {"request_rate": None if self.rate == float("inf") else self.rate, "max_concurrency": self.concurrency}
        return {"load": str(self), **limits, "burstiness": None if self.rate is None else self.burstiness}

    def __str__(self) -> str:
        if self.rate is None:
            return f"{self.concurrency} at a time"
        return "all at once" if self.rate == float("inf") else f"{self.rate:g} req/s"


async def measure(
    endpoint: Endpoint,
    asks: Sequence[Ask],
    loads: Sequence[Load],
    *,
    warmups: int = 1,
    seed: int = 0,
    goals: Mapping[str, float] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> list[dict[str, Any]]:
    """The figures of each load in turn, over the same requests. `warmups` requests go ahead and are not counted.

    HeddleError where the server cannot be reached or answers none of the first requests.
    """
    found = []
    async with Client(endpoint) as client:
        if not endpoint.model:
            models = await client.models()
            if not models:
                raise HeddleError(f"the server at {endpoint.root} has no models", fix="name one by --model")
            endpoint = dataclasses.replace(endpoint, model=models[0])
    async with Client(endpoint) as client:
        first = [await client.ask(asks[i % len(asks)], time.perf_counter()) for i in range(warmups)]
        if first and not any(answer.ok for answer in first):
            raise HeddleError(
                f"the server at {endpoint.root} answers no request",
                str(first[0].error),
                "check --base-url, --endpoint, --model, --api-key and --extra-body",
            )
        for load in loads:
            answers = await run(client, asks, load, seed, functools.partial(progress, str(load)))
            found.append({"model": endpoint.model, **load.named(), **summary(answers, goals or {})})
    return found


async def run(
    client: Client, asks: Sequence[Ask], load: Load, seed: int, report: Callable[[int, int], None]
) -> list[Answer]:
    """One load: all requests, answered; `report` gets how many are, and of how many."""
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        report(count, len(asks))

    if load.rate is not None:
        times = arrivals(len(asks), load.rate, load.burstiness, seed)
        return await open_loop(asks, times, client.ask, done)
    assert load.concurrency is not None
    return await closed_loop(asks, load.concurrency, client.ask, done)
