"""Random load for a long time (HEDDLE_SOAK_SECONDS, 20 minutes): nothing grows, nothing is lost, nothing hangs, no text changes.

Producers in several event loops send requests of all kinds to one model in a pool that is too small for them. They abort, cancel
and forget requests, run into deadlines and full queues, and ask for what cannot be. Each request must end in a result, in an
error of ours, or in the cancellation that its producer asked for.
"""

from __future__ import annotations

import asyncio
import collections
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heddle import AbortedError, AsyncLLM, SamplingParams
from heddle.llm import LLM
from heddle.runtime.errors import DeadlineError, QueueFullError, RequestError
from heddle.runtime.outputs import RequestOutput

SECONDS = float(os.environ.get("HEDDLE_SOAK_SECONDS", 1200))
WAYS = ("recompute", "swap")
LOOPS, PRODUCERS = 3, 12
PAGES = 48
HANGS = 120.0
"""Seconds after which a request is taken to hang; on an idle machine all take less than one."""
GROWTH = 24e6
"""Bytes by which memory may move: Python's and the C library's allocators do not give all back at once."""
TEXTS = ("The cache is", "To install the package, run", "Returns", "def", "  ", "日本")
KNOWN = 8
ALWAYS = ("stop", "length", "timeout", "aborted", "cancelled", "left", "full", "refused", "known")


def params_of(rng: np.random.Generator) -> SamplingParams:
    """Any parameters that make sense together."""
    several = rng.random() < 0.2
    n = int(rng.integers(2, 4)) if several else 1
    return SamplingParams(
        n=n,
        best_of=n + int(rng.integers(2)) if several else None,
        seed=int(rng.integers(1 << 40)),
        max_tokens=int(rng.integers(1, 100)),
        ignore_eos=bool(rng.random() < 0.5),
        temperature=float(rng.choice([0.7, 1.3] if several else [0.0, 0.7, 1.3])),
        top_k=int(rng.choice([0, 20])),
        top_p=float(rng.choice([0.8, 1.0])),
        min_p=float(rng.choice([0.0, 0.05])),
        typical_p=float(rng.choice([0.9, 1.0])),
        repetition_penalty=float(rng.choice([1.0, 1.2])),
        presence_penalty=float(rng.choice([0.0, 0.5])),
        frequency_penalty=float(rng.choice([0.0, 0.5])),
        logit_bias={int(rng.integers(4096)): 5.0} if rng.random() < 0.1 else None,
        bad_words=("cache",) if rng.random() < 0.1 else None,
        logprobs=int(rng.integers(3)) if rng.random() < 0.1 else None,
        prompt_logprobs=int(rng.integers(2)) if rng.random() < 0.05 else None,
        stop=("the", "\n\n", "a b") if rng.random() < 0.3 else None,
    )


def known_requests() -> list[tuple[list[int], SamplingParams]]:
    """Requests that are sent again and again: their texts must never change."""
    rng = np.random.default_rng(3)
    return [
        (rng.integers(3, 4096, 10 + 20 * i).tolist(), SamplingParams(seed=i, max_tokens=40, temperature=0.1 * i))
        for i in range(KNOWN)
    ]


class Load:
    """Producers, and how their requests ended. What an errand ends with is its return value; all else fails the test."""

    def __init__(self, llm: AsyncLLM, expected: list[Any], until: float) -> None:
        self.llm, self.until = llm, until
        self.known = list(zip(known_requests(), expected, strict=True))
        self.heads = np.random.default_rng(5).integers(3, 4096, (6, 80))
        self.ends: collections.Counter[str] = collections.Counter()
        self.failures: list[BaseException] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        """Until the time is over. Raises what went wrong first."""
        threads = [threading.Thread(target=self._loop, args=(seed,)) for seed in range(LOOPS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _loop(self, seed: int) -> None:
        async def all_producers() -> None:
            await asyncio.gather(*(self._produce(np.random.default_rng((seed, p))) for p in range(PRODUCERS)))

        try:
            asyncio.run(all_producers())
        except BaseException as error:
            self.failures.append(error)

    async def _produce(self, rng: np.random.Generator) -> None:
        errands = (self.whole, self.whole, self.whole, self.late, self.aborted, self.cancelled, self.left)
        errands += (self.refused, self.known_text)
        while time.monotonic() < self.until and not self.failures:
            errand = errands[rng.integers(len(errands))]
            try:
                end = await asyncio.wait_for(errand(rng), HANGS)
            except QueueFullError:
                end = "full"
                await asyncio.sleep(0.05)
            with self._lock:
                self.ends[end] += 1

    def prompt(self, rng: np.random.Generator) -> Any:
        if rng.random() < 0.3:
            return TEXTS[rng.integers(len(TEXTS))]
        head = self.heads[rng.integers(len(self.heads))][: rng.integers(1, 81)]
        return head.tolist() + rng.integers(3, 4096, rng.integers(60)).tolist()

    async def whole(self, rng: np.random.Generator, **options: Any) -> str:
        """To its end."""
        kind = ("cumulative", "delta", "final")[rng.integers(3)]
        options |= {"priority": int(rng.integers(3)), "salt": ("", "", "a")[rng.integers(3)]}
        found: RequestOutput | None = None
        async for output in self.llm.generate(self.prompt(rng), params_of(rng), output_kind=kind, **options):
            found = output
        assert found is not None
        assert found.finished
        reasons = [completion.finish_reason for completion in found.outputs]
        assert kind == "delta" or set(reasons) <= {"stop", "length", "timeout"}
        return reasons[-1] or "delta"

    async def late(self, rng: np.random.Generator) -> str:
        """With so little time that many do not make it."""
        try:
            return await self.whole(rng, timeout=float(rng.random() * 0.2 + 1e-3))
        except DeadlineError:
            return "timeout"

    async def aborted(self, rng: np.random.Generator) -> str:
        """Ended by its id, before or after its first token."""
        name = f"abort-{rng.integers(1 << 60)}"
        iterator = self.llm.generate(self.prompt(rng), params_of(rng), request_id=name)
        try:
            if rng.random() < 0.7:
                await anext(iterator)
            self.llm.abort(name)
            async for _ in iterator:
                pass
        except AbortedError:
            return "aborted"
        return "length"

    async def cancelled(self, rng: np.random.Generator) -> str:
        """A task that is cancelled at any moment."""
        task = asyncio.ensure_future(self.whole(rng))
        await asyncio.sleep(float(rng.random() * 0.1))
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return "cancelled"

    async def left(self, rng: np.random.Generator) -> str:
        """An iterator that is closed when some has come."""
        iterator = self.llm.generate(self.prompt(rng), params_of(rng), output_kind="delta")
        for _ in range(int(rng.integers(1, 5))):
            if await anext(iterator, None) is None:
                return "length"
        await iterator.aclose()
        return "left"

    async def refused(self, rng: np.random.Generator) -> str:
        """What can never be served."""
        prompt, options = [([], {}), ([9999], {}), ([1] * 5000, {}), ([1], {"timeout": -1})][rng.integers(4)]
        with pytest.raises(RequestError):
            self.llm.generate(prompt, **options)
        return "refused"

    async def known_text(self, rng: np.random.Generator) -> str:
        """One whose answer is known."""
        (prompt, params), expected = self.known[rng.integers(KNOWN)]
        async for output in self.llm.generate(prompt, params, output_kind="final"):
            assert output.outputs == expected, "a text depends on what else is served"
        return "known"


class Watch:
    """Looks at the engine twice a second, in its own thread between steps, and at the memory of this process."""

    def __init__(self, llm: AsyncLLM) -> None:
        self.llm = llm
        self.memory: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.5):
            self.llm._thread._post(self.llm._engine.check_integrity)  # an error ends the engine, and so the test
            self.memory.append(resident_bytes())

    def growth(self) -> float:
        """Bytes between the second quarter of the time and the last one, in the median; ends the watch."""
        self._over.set()
        self._thread.join()
        quarter = len(self.memory) // 4
        early, late = self.memory[quarter : 2 * quarter], self.memory[-quarter:]
        return statistics.median(late) - statistics.median(early)


def resident_bytes() -> int:
    """Memory of this process that is in use now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize("preemption", WAYS)
def test_random_load(tinydoc: Path, preemption: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "heddle.runtime.model.RESULT_BYTES", 4 << 20
    )  # what may be kept is full soon, and hides no leak
    alone = LLM(tinydoc, threads=2, prefix_cache=False)
    expected = [alone.generate(*request)[0].outputs for request in known_requests()]
    pool = PAGES * alone.artifact.manifest.caches[0].record_bytes
    del alone
    options: dict[str, Any] = {"swap_memory": pool} if preemption == "swap" else {}
    options |= {"kv_memory": pool, "max_waiting": 24, "policy": "priority", "preemption": preemption}
    with AsyncLLM(tinydoc, threads=2, **options) as llm:
        watch = Watch(llm)
        load = Load(llm, expected, time.monotonic() + SECONDS / len(WAYS))
        try:
            load.run()
        finally:
            growth = watch.growth()
    engine = llm._engine
    engine.check_integrity()
    print(f"{preemption}: {dict(load.ends)}, {growth / 1e6:.1f} MB grown, {llm.metrics}")
    assert not engine.has_work
    assert not llm._thread._streams
    assert engine.kv.num_free == engine.kv.num_pages, "pages were lost"
    assert [end for end in ALWAYS if not load.ends[end]] == [], "the load is not what it should be"
    assert (llm.metrics.swaps if preemption == "swap" else llm.metrics.preemptions) > 0
    assert growth < GROWTH, f"memory grew by {growth / 1e6:.1f} MB: {watch.memory}"
