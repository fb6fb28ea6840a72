"""What the server costs: the same engine, asked in this process and over HTTP from another one.

    python benchmarks/server.py --rounds 8

Qwen2.5-0.5B shape, random weights, w4a8, engine threads one fewer than cores (`--threads`). Per round, in turns: 32 streams of
`--output-len` tokens at a time through AsyncLLM, and by `heddle bench serve` through the server, whose engine is the same; then
single requests, one through each, for the time to the first token. Figures are medians of rounds, of ratios too. The client
works on the same cores, so that what it takes is counted as the server's.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import report
from checkpoint import make_checkpoint
from model import MODELS
from served import Served, bench

from heddle import AsyncLLM, SamplingParams
from heddle.bench.client import Client, Endpoint
from heddle.bench.prompts import Ask, Lengths, random_asks
from heddle.runtime.features import physical_cores

MODEL = "qwen2.5-0.5b"


async def in_process(model: AsyncLLM, asks: list[Ask]) -> dict[str, float]:
    """Of requests that are all sent at once: tokens a second, and median milliseconds to the first token and between tokens."""

    async def one(ask: Ask) -> list[float]:
        params = SamplingParams(temperature=0.0, max_tokens=ask.max_tokens, ignore_eos=True)
        times = [time.perf_counter()]
        async for output in model.generate(str(ask.prompt), params, output_kind="delta"):
            times += [time.perf_counter()] * len(output.outputs[0].token_ids)
        return times

    begin = time.perf_counter()
    found = await asyncio.gather(*(one(ask) for ask in asks))
    seconds = max(times[-1] for times in found) - begin
    return {
        "tokens": sum(len(times) - 1 for times in found) / seconds,
        "first": statistics.median(times[1] - times[0] for times in found) * 1e3,
        "between": statistics.median(b - a for times in found for a, b in itertools.pairwise(times[1:])) * 1e3,
    }


def over_http(url: str, streams: int, lengths: Lengths, seed: int, tokenizer: Path) -> dict[str, float]:
    """The same through the server."""
    sizes = ("--input-len", str(lengths.prompt), "--output-len", str(lengths.answer), "--seed", str(seed))
    arguments = ("--num-prompts", str(streams), "--concurrency", str(streams), "--ignore-eos", "--num-warmups", "0")
    (row,) = bench(url, *sizes, *arguments, "--tokenizer", str(tokenizer))
    if row["failed"] or row["total_output_tokens"] != streams * lengths.answer:
        raise RuntimeError(f"the server failed: {row}")
    return {"tokens": row["output_throughput"], "first": row["median_ttft_ms"], "between": row["median_itl_ms"]}


async def firsts(model: AsyncLLM, url: str, asks: list[Ask]) -> tuple[list[float], list[float]]:
    """Milliseconds to the first token of single requests, in this process and over HTTP, in turns."""
    found: tuple[list[float], list[float]] = ([], [])
    async with Client(Endpoint(url, model="bench", ignore_eos=True)) as client:
        for i, ask in enumerate(asks):
            if i % 2:
                answer = await client.ask(ask, time.perf_counter())
                if not answer.ok:
                    raise RuntimeError(answer.error)
                found[1].append(answer.ttft * 1e3)
            else:
                found[0].append((await in_process(model, [ask]))["first"])
    return found


def main() -> None:
    """Print the figures, and write them as JSON where asked."""
    parser = report.parser(__doc__, rounds=8)
    parser.set_defaults(threads=max(1, len(physical_cores()) - 1))
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "heddle-bench", help="where models live")
    parser.add_argument("--artifact", type=Path, help="measure this artifact instead")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--input-len", type=int, default=64)
    parser.add_argument("--output-len", type=int, default=256)
    options = parser.parse_args()
    _, about = report.heading(options, model=MODEL)
    source: Path = options.artifact or make_checkpoint(MODELS[MODEL], options.envs / "checkpoints" / MODEL)
    lengths = Lengths(options.input_len, options.output_len)
    results: list[dict[str, Any]] = []
    with (
        AsyncLLM(
            source,
            None if options.artifact else "w4a8",
            options.threads,
            kv_memory="1GB",
            prefix_cache=False,
        ) as model,
        Served(model) as served,
    ):
        for turn in range(-1, options.rounds):
            ways = [
                (
                    "engine",
                    lambda turn=turn: asyncio.run(
                        in_process(model, random_asks(options.streams, lengths, turn + 1, model.tokenizer))
                    ),
                ),
                ("server", lambda turn=turn: over_http(served.url, options.streams, lengths, turn + 1, source)),
            ]
            found = {name: way() for name, way in (ways if turn % 2 else reversed(ways))}
            asks = random_asks(20, Lengths(options.input_len, 2), 1000 + turn, model.tokenizer)
            engine, server = asyncio.run(firsts(model, served.url, asks))
            row = {
                "engine_tokens": found["engine"]["tokens"],
                "server_tokens": found["server"]["tokens"],
                "ratio": found["server"]["tokens"] / found["engine"]["tokens"],
                "engine_first_ms": statistics.median(engine),
                "server_first_ms": statistics.median(server),
                "all_first_ms": (found["engine"]["first"], found["server"]["first"]),
                "all_between_ms": (found["engine"]["between"], found["server"]["between"]),
                "between_ratio": found["engine"]["between"] / found["server"]["between"],
            }
            row["first_difference_ms"] = row["server_first_ms"] - row["engine_first_ms"]
            print({key: np.round(value, 3).tolist() for key, value in row.items()}, flush=True)
            if turn >= 0:  # the first one warms up
                results.append(row)
    ratio = statistics.median(row["ratio"] for row in results)
    between = statistics.median(row["between_ratio"] for row in results)
    first = statistics.median(row["first_difference_ms"] for row in results)
    print(f"throughput of the server to the engine's: {ratio:.3f} (goal: over 0.97)")
    print(f"the same by the median time between tokens, which a few pauses do not move: {between:.3f}")
    print(f"time to first token, server's less the engine's: {first:.2f} ms (goal: under 5)")
    report.write(options, about, results)


if __name__ == "__main__":
    main()
