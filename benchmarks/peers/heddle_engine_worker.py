"""Heddle as a worker of engine.py: requests all at once through LLM, as they come through AsyncLLM, and what a step costs."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_BIND_THREADS", "0")

import protocol
from heddle_worker import ARTIFACT, prepare


class Clock:
    """Adds up the seconds that calls of a function take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0
        self.few_rows = getattr(function, "few_rows", 0)
        self.instances = getattr(function, "instances", [])

    def __call__(self, *args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return self.function(*args, **options)
        finally:
            self.seconds += time.perf_counter() - start


class HeddleEngine:
    """A model that is loaded again where the options change. Options are those of LLM, and:

    step_tokens: tokens of a step at most. order: that of `LLM.generate`.
    """

    def __init__(self, folder: Path, variant: str, threads: int, context: int) -> None:
        self.folder, self.threads, self.context = folder, threads, context
        self.open: tuple[Any, ...] = ()
        self.model: Any = None
        self._load(False, {})

    def serve(
        self, prompts: protocol.Prompts, counts: list[int], arrivals: list[float] | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Serve requests as protocol.Server says."""
        from heddle import SamplingParams

        options = dict(options)
        order = options.pop("order", "given")
        params = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in counts]
        if arrivals is not None:
            self._load(True, options)
            return asyncio.run(self._serve(prompts, params, arrivals))
        self._load(False, options)
        self.model.engine.kv.clear()
        start = time.perf_counter()
        outputs = self.model.generate(prompts, params, order=order)
        seconds = time.perf_counter() - start
        stats = self.model.engine.stats
        return {
            "seconds": seconds,
            "tokens": [len(output.outputs[0].token_ids) for output in outputs],
            "cached": sum(output.num_cached_tokens for output in outputs),
            "preemptions": stats.preemptions,
        }

    async def _serve(self, prompts: protocol.Prompts, params: list[Any], arrivals: list[float]) -> dict[str, Any]:
        start = time.perf_counter()
        times: list[list[float]] = [[] for _ in prompts]

        async def one(i: int) -> None:
            await asyncio.sleep(max(0.0, start + arrivals[i] - time.perf_counter()))
            async for output in self.model.generate(prompts[i], params[i], output_kind="delta"):
                now = time.perf_counter() - start - arrivals[i]
                times[i] += [now] * len(output.outputs[0].token_ids)

        await asyncio.gather(*map(one, range(len(prompts))))
        return {"seconds": time.perf_counter() - start, "times": times}

    def steps(self, decodes: int, context: int, chunks: list[int], repeat: int) -> dict[str, Any]:
        """Milliseconds of a step of `decodes` sequences after `context` tokens and a chunk of a prompt, by chunk length."""
        import numpy as np

        from heddle.runtime.plans import PlanSequence

        self._load(False, {})
        runner = self.model.runner
        page = runner.info.page_tokens
        each = -(-(context + 1) // page)
        found: dict[int, list[float]] = {chunk: [] for chunk in chunks}
        for _ in range(repeat + 1):
            for chunk, times in found.items():
                tables = [np.arange(i * each, (i + 1) * each, dtype=np.int32) for i in range(decodes)]
                batch = [PlanSequence(pages, context, 1) for pages in tables]
                wanted = list(range(decodes))
                if chunk:
                    last = np.arange(decodes * each, decodes * each + -(-chunk // page), dtype=np.int32)
                    batch.append(PlanSequence(last, 0, chunk))
                tokens = np.arange(decodes + chunk, dtype=np.int32)
                start = time.perf_counter()
                runner.forward(batch, tokens, np.array(wanted, np.int32))
                times.append((time.perf_counter() - start) * 1e3)
        return {str(chunk): statistics.median(times[1:]) for chunk, times in found.items()}

    def shares(self, batch: int, context: int, count: int) -> dict[str, Any]:
        """Parts of the time of decode steps of `batch` sequences, and milliseconds of a step."""
        from heddle import SamplingParams
        from heddle.runtime.detokenize import Detokenizer

        self._load(False, {"prefix_cache": False})
        runner, engine = self.model.runner, self.model.engine
        names = ("_embed", "_body", "_head")
        functions = [getattr(runner, name) for name in names]
        clocks = [Clock(function) for function in functions]
        push = Detokenizer.push
        texts = Clock(push)
        for name, clock in zip(names, clocks, strict=True):
            setattr(runner, name, clock)
        Detokenizer.push = lambda *args: texts(*args)  # type: ignore[method-assign]
        try:
            params = SamplingParams(temperature=0.8, top_k=50, top_p=0.95, seed=1, max_tokens=count, ignore_eos=True)
            for i in range(batch):
                engine.add_request([1 + (i + j) % 200 for j in range(context)], params)
            before = dataclasses.replace(engine.stats.decode)
            while engine.stats.decode.steps == before.steps:  # the prompts
                engine.step()
            before = dataclasses.replace(engine.stats.decode)
            started = [clock.seconds for clock in (*clocks, texts)]
            while engine.has_work:
                engine.step()
        finally:
            Detokenizer.push = push  # type: ignore[method-assign]
            for name, function in zip(names, functions, strict=True):
                setattr(runner, name, function)
        spent = [clock.seconds - at for clock, at in zip((*clocks, texts), started, strict=True)]
        after, steps = engine.stats.decode, engine.stats.decode.steps - before.steps
        whole = after.seconds - before.seconds
        inside = after.compiled_seconds - before.compiled_seconds
        sampling = after.sample_seconds - before.sample_seconds
        compiled = sum(spent[:3])
        return {
            "ms": whole / steps * 1e3,
            "compiled": compiled / whole,
            "sampling": sampling / whole,
            "detokenization": spent[3] / whole,
            "runner": (inside - compiled) / whole,
            "scheduling": (whole - inside - sampling - spent[3]) / whole,
        }

    def _load(self, parallel: bool, options: dict[str, Any]) -> None:
        """The model with these options: an AsyncLLM where `parallel`, else an LLM. Nothing is kept in its prefix cache."""
        from heddle import LLM, AsyncLLM, SamplingParams
        from heddle.runtime.artifact import open_artifact

        wanted = (parallel, *sorted(options.items()))
        if wanted == self.open:
            return
        if self.open and self.open[0]:
            self.model.shutdown()
        self.model = None
        gc.collect()
        options = {"step_tokens": None} | dict(options)
        artifact = self.folder / ARTIFACT
        group = open_artifact(artifact).manifest.caches[0]
        pages = -(-options.pop("kv_tokens", self.context) // group.page_tokens)
        made = (AsyncLLM if parallel else LLM)(
            artifact, threads=self.threads, kv_memory=pages * group.record_bytes, **options
        )
        self.model, self.open = made, wanted
        if parallel:  # the first step starts threads

            async def first() -> None:
                async for _ in made.generate([1, 2, 3], SamplingParams(max_tokens=2)):
                    pass

            asyncio.run(first())


if __name__ == "__main__":
    protocol.main(prepare, HeddleEngine)
