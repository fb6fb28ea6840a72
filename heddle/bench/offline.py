"""Measuring a model in this process, without a server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arguments import Prompt
from ..llm import LLM
from ..runtime.errors import RequestError
from ..runtime.outputs import RequestOutput
from ..runtime.request import pages_for
from ..runtime.sampling import SamplingParams
from .prompts import Ask

Progress = Callable[[str, int, int], None]


def latency(
    llm: LLM,
    batches: Sequence[int],
    prompt: int,
    answer: int,
    repeat: int,
    warmup: int = 1,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> list[dict[str, Any]]:
    """Batches of requests that begin together, each of `prompt` random tokens and `answer` greedy ones; a row for each size.

    ttft_ms and tpot_ms are medians of all requests of all repeats, e2el_ms (the whole batch) and tokens/s medians of repeats.
    RequestError where a batch does not run at once. Give the model no prefix cache, or repeats find their prompts in it.
    """
    check(llm, max(batches), prompt, answer)
    rng, rows = np.random.default_rng(seed), []
    params = SamplingParams(temperature=0.0, max_tokens=answer, ignore_eos=True)
    total = len(batches) * (repeat + warmup)
    for at, batch in enumerate(batches):
        outputs: list[RequestOutput] = []
        seconds: list[float] = []
        for turn in range(-warmup, repeat):
            prompts = rng.integers(0, llm.runner.info.vocab_size, (batch, prompt)).tolist()
            begin = time.perf_counter()
            found = llm.generate(prompts, params)
            if turn >= 0:
                seconds.append(time.perf_counter() - begin)
                outputs += found
            progress("latency", at * (repeat + warmup) + turn + warmup + 1, total)
        times = [output.metrics for output in outputs if output.metrics is not None]
        whole = statistics.median(seconds)
        first = statistics.median(t.time_to_first_token or 0.0 for t in times)
        per_token = statistics.median(t.decode_seconds / (answer - 1) for t in times) if answer > 1 else None
        rows.append(
            {
                "batch_size": batch,
                "input_len": prompt,
                "output_len": answer,
                "ttft_ms": first * 1e3,
                "tpot_ms": None if per_token is None else per_token * 1e3,
                "e2el_ms": whole * 1e3,
                "output_throughput": batch * answer / whole,
                "total_token_throughput": batch * (prompt + answer) / whole,
                "repeats": seconds,
            }
        )
    return rows


def prepared(llm: LLM, asks: Sequence[Ask]) -> list[tuple[Prompt, int]]:
    """Prompts as the model takes them, with the most tokens to generate: conversations go through its chat template."""
    found: list[tuple[Prompt, int]] = []
    for ask in asks:
        if isinstance(ask.prompt, str):
            found.append((ask.prompt, ask.max_tokens))
        else:
            text = llm.prompts.conversation(ask.prompt)
            found.append(
                (llm.prompts.token_ids(text, add_special_tokens=False), ask.max_tokens)
            )  # they are in the text
    return found


def throughput(llm: LLM, requests: Sequence[tuple[Prompt, int]], ignore_eos: bool) -> dict[str, Any]:
    """All requests at once, as fast as they go: prompts with the most tokens to generate."""
    prompts = [prompt for prompt, _ in requests]
    params = [SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=ignore_eos) for _, count in requests]
    begin = time.perf_counter()
    outputs = llm.generate(prompts, params)
    seconds = time.perf_counter() - begin
    read = sum(len(output.prompt_token_ids) for output in outputs)
    written = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
    return {
        "num_requests": len(outputs),
        "duration": seconds,
        "total_input_tokens": read,
        "total_output_tokens": written,
        "cached_tokens": sum(output.num_cached_tokens for output in outputs),
        "request_throughput": len(outputs) / seconds,
        "output_throughput": written / seconds,
        "total_token_throughput": (read + written) / seconds,
    }


def check(llm: LLM, batch: int, prompt: int, answer: int) -> None:
    """RequestError unless a batch fits into a step and into the pool, so that nobody waits."""
    length, info = prompt + answer, llm.runner.info
    if length > llm.engine.context_length:
        raise RequestError(
            f"{prompt} and {answer} tokens do not fit into the context of {llm.engine.context_length}",
            fix="give a smaller --input-len or --output-len",
        )
    if batch > info.max_seqs:
        raise RequestError(
            f"a batch of {batch} is more than the {info.max_seqs} sequences of a step",
            fix="compile with more --max-seqs",
        )
    needed = batch * pages_for(length, info.page_tokens)
    if needed > llm.engine.kv.num_pages:
        raise RequestError(
            f"a batch of {batch} needs {needed} pages of the KV pool, which has {llm.engine.kv.num_pages}",
            "requests would wait for each other",
            "give more by --kv-memory",
        )
