"""Asking an AsyncLLM, and what must hold when nobody does."""

from __future__ import annotations

import time
from typing import Any

from heddle import AsyncLLM, SamplingParams
from heddle.runtime.outputs import RequestOutput

PARAMS = SamplingParams(seed=4, max_tokens=12, ignore_eos=True)
LONG = SamplingParams(seed=1, max_tokens=150, ignore_eos=True)


def check_idle(model: AsyncLLM) -> None:
    engine = model._engine
    engine.check_integrity()
    assert not engine.has_work
    assert not model._thread._streams
    assert engine.kv.num_free == engine.kv.num_pages


def wait_until(condition: Any, what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)


async def outputs(model: AsyncLLM, prompt: Any, params: SamplingParams = PARAMS, **options: Any) -> list[RequestOutput]:
    return [output async for output in model.generate(prompt, params, **options)]


async def exhaust(iterator: Any) -> None:
    async for _ in iterator:
        pass


async def last(model: AsyncLLM, prompt: Any, params: SamplingParams = PARAMS, **options: Any) -> RequestOutput:
    return (await outputs(model, prompt, params, output_kind="final", **options))[-1]
