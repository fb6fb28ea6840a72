"""The engine under load: throughput beside openvino-genai, latency, prefixes, order, and Python's share of a step.

    python benchmarks/engine.py --threads 2 --rounds 5 --json results.json

Qwen2.5-0.5B shape, random weights, w4a8. Every system is a worker process (peers/heddle_engine_worker.py,
peers/openvino_batch_worker.py; installed as side_by_side.py does, in the same `--envs`), pinned to the same cores; all but the one
at work are stopped. What is compared alternates within a round, and beginning with another every round; figures are medians of
rounds, of ratios too. Round 0 of `batch` is not counted.

    batch     64 requests (prompts of 32 to 512 tokens, outputs of 16 to 128) at once: generated tokens per second
    arrivals  the same, arriving by Poisson at 80 % of the slower system's throughput: milliseconds between tokens and to the
              first, with few tokens of prompts in a step, and with whole prompts (at most `--step-tokens`, and 1024 in all)
    prefix    16 requests with 1024 tokens in common, with the prefix cache and without
    order     prefix groups, shuffled, in a pool that holds few of them: order="shared" and as they come
    shares    parts of the time of decode steps at batch 1 and 32; everything but compiled code and sampling is Python's
    steps     what a chunk of a prompt adds to a step of 8 decodes

`--only` runs some of them; `arrivals` needs `batch`, or `--rate`. The sampler's own benchmark is sample.py.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import report
from checkpoint import make_checkpoint
from model import MODELS
from systems import OPENVINO, OPENVINO_EXPORT, System, Unavailable, Worker, prepared
from workloads import Latency, Workload, groups, mixed, shared_prefix

from heddle.runtime.features import physical_cores

MODEL = "qwen2.5-0.5b"
POOL = 40_960
"""Tokens of Heddle's KV pool: all requests have room at once, as in the peer's 2 GB."""
HEDDLE = System("heddle engine w4a8", "heddle_engine", json.dumps("w4a8"), 2)
PEER = System("openvino-genai, 8-bit head", "openvino_batch", "head8", 1, OPENVINO_EXPORT, OPENVINO)
LOAD = 0.8
WHOLE = {"chunk": 1024, "prefix_cache": False}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. `goal` is text, "" where there is none; `met` None then."""

    what: str
    value: float
    goal: str = ""
    met: bool | None = None


class Bench:
    """The systems at work, and what was found so far."""

    def __init__(self, heddle: Worker, peer: Worker | None, rounds: int, step_tokens: int, rate: float | None) -> None:
        self.heddle, self.peer, self.rounds, self.rate = heddle, peer, rounds, rate
        self.vocab = int(MODELS[MODEL]["vocab_size"])
        self.chunked = {"chunk": step_tokens, "step_tokens": step_tokens, "prefix_cache": False}
        self.throughput: list[float] = []  # requests per second of the slower system, by round
        self.rows: list[Row] = []
        self.disturbance: list[float] = []

    def add(self, what: str, value: float, least: float | None = None, most: float | None = None) -> None:
        """A figure, with the least or the most that it should be."""
        bound = least if most is None else most
        goal = "" if bound is None else f"{'>=' if most is None else '<='} {bound:g}"
        met = None if bound is None else value >= bound if most is None else value <= bound
        self.rows.append(Row(what, value, goal, met))
        print(f"{what}: {value:.4g}", file=sys.stderr, flush=True)

    def call(self, worker: Worker, method: str, **arguments: Any) -> dict[str, Any]:
        """The answer of a worker's method."""
        answer = worker.ask(call=method, arguments=arguments)
        self.disturbance.append(worker.disturbance)
        return answer

    def serve(self, worker: Worker, work: Workload, **options: Any) -> dict[str, Any]:
        """What came of serving a workload; Unavailable where a system stopped early."""
        if worker is self.heddle:
            options = {"kv_tokens": POOL, **options}
        answer = self.call(worker, "serve", **dataclasses.asdict(work), options=options)
        found = answer.get("tokens") or [len(times) for times in answer["times"]]
        if found != work.counts:
            raise Unavailable(f"{worker.system.name} generated {sum(found)} tokens of {work.generated}")
        return answer

    def alternate(self, ways: Sequence[Callable[[], float]], rounds: int | None = None) -> list[list[float]]:
        """What each way gives, by round."""
        found: list[list[float]] = [[] for _ in ways]
        for turn in range(self.rounds if rounds is None else rounds):
            for i in np.roll(np.arange(len(ways)), -turn):
                found[i].append(ways[i]())
        return found

    def batch(self) -> None:
        """Throughput, all at once."""
        workers = [worker for worker in (self.heddle, self.peer) if worker]
        work = mixed(64, self.vocab, 0)
        ways = [lambda worker=worker: self.serve(worker, work)["seconds"] for worker in workers]
        found = [seconds[1:] for seconds in self.alternate(ways, self.rounds + 1)]
        for worker, seconds in zip(workers, found, strict=True):
            self.add(f"batch, {worker.system.name}, tokens/s", statistics.median(work.generated / s for s in seconds))
        if self.peer:
            self.add("batch, ratio to openvino-genai", median_ratio(found[1], found[0]), least=1.5)
        self.throughput = [len(work.prompts) / statistics.median(seconds) for seconds in found]

    def arrivals(self) -> None:
        """Latencies under Poisson arrivals."""
        if not self.throughput and self.rate is None:
            raise SystemExit("arrivals come at a part of the throughput: run `batch` too, or give --rate")
        rate = LOAD * min(self.throughput) if self.rate is None else self.rate
        self.add("arrivals, requests a second", rate)
        settings = [("chunked", self.heddle, self.chunked), ("whole prompts", self.heddle, WHOLE)]
        if self.peer:
            settings.append((self.peer.system.name, self.peer, {}))
        found: dict[str, list[Latency]] = {name: [] for name, _, _ in settings}
        for turn in range(self.rounds):
            work = mixed(64, self.vocab, 0).poisson(rate, turn)
            for i in np.roll(np.arange(len(settings)), -turn):
                name, worker, options = settings[i]
                found[name].append(Latency.of(self.serve(worker, work, **options)["times"]))
        for field in dataclasses.fields(Latency):
            values = {name: [getattr(latency, field.name) for latency in all_] for name, all_ in found.items()}
            for name, of_rounds in values.items():
                self.add(f"arrivals, {name}, {field.name}, ms", statistics.median(of_rounds))
            if field.name == "between_p99":
                ratio = median_ratio(values["chunked"], values["whole prompts"])
                self.add("arrivals, between_p99, chunked to whole prompts", ratio, most=0.5)

    def prefix(self) -> None:
        """The same beginning, with and without the prefix cache."""
        work = shared_prefix(16, 1024, self.vocab, 1)
        ways = [lambda on=on: self.serve(self.heddle, work, prefix_cache=on)["seconds"] for on in (True, False)]
        found = self.alternate(ways)
        for name, seconds in zip(("with", "without"), found, strict=True):
            self.add(f"prefix, {name} the cache, s", statistics.median(seconds))
        self.add("prefix, speed with the cache", median_ratio(found[1], found[0]), least=3)

    def order(self) -> None:
        """An offline batch of mixed prefix groups in a small pool."""
        work = groups([8] * 8, 512, 32, self.vocab, 2)
        orders = ("shared", "given")
        answers: dict[str, dict[str, Any]] = {}

        def run(order: str) -> float:
            answers[order] = self.serve(self.heddle, work, order=order, kv_tokens=2560)
            return float(answers[order]["seconds"])

        found = self.alternate([lambda order=order: run(order) for order in orders])
        for order, seconds in zip(orders, found, strict=True):
            self.add(f"order, {order}, s", statistics.median(seconds))
            self.add(f"order, {order}, cached tokens", answers[order]["cached"])
        self.add("order, speed of shared to given", median_ratio(found[1], found[0]), least=1.2)

    def shares(self) -> None:
        """Where the time of a decode step goes."""
        for batch, most in ((1, 0.05), (32, 0.08)):
            answers = [self.call(self.heddle, "shares", batch=batch, context=128, count=64) for _ in range(self.rounds)]
            found = {name: statistics.median(answer[name] for answer in answers) for name in answers[0]}
            for name, value in found.items():
                self.add(f"shares, batch {batch}, {name}", value)
            python = sum(found[name] for name in ("scheduling", "detokenization", "runner"))
            self.add(f"shares, batch {batch}, Python in all", python, most=most)

    def steps(self) -> None:
        """What a chunk costs the decodes of its step."""
        chunks = [0, 16, 32, 64, 128, 256, 512, 1016]
        found = self.call(self.heddle, "steps", decodes=8, context=256, chunks=chunks, repeat=self.rounds)
        for chunk in chunks:
            self.add(f"steps, 8 decodes and a chunk of {chunk}, ms", found[str(chunk)])
            if chunk:
                self.add(f"steps, tokens/s of a chunk of {chunk}", chunk / (found[str(chunk)] - found["0"]) * 1e3)


PARTS = ("batch", "arrivals", "prefix", "order", "shares", "steps")


def median_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """The median of the rounds' ratios of a to b, which see the same minutes."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def table(rows: Sequence[Row]) -> str:
    """One line a figure, with its goal."""
    width = max(len(row.what) for row in rows)
    said = {None: "", True: "met", False: "MISSED"}
    return "\n".join(f"{row.what:{width}} {row.value:10.4g}  {row.goal:8}{said[row.met]}".rstrip() for row in rows)


def start(system: System, options: argparse.Namespace, stack: contextlib.ExitStack) -> Worker:
    """Install and build a system, and start its worker."""
    checkpoint = make_checkpoint(MODELS[MODEL], options.envs / "checkpoints" / MODEL)
    print(f"preparing {system.name}", file=sys.stderr, flush=True)
    home, _ = prepared(system, checkpoint, options.envs)
    return stack.enter_context(Worker(system, options.envs, home, physical_cores()[: options.threads], POOL))


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "heddle-bench", help="where peers live")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--step-tokens", type=int, default=128, help="tokens of a step with chunked prefill")
    parser.add_argument(
        "--rate", type=float, help="requests a second in `arrivals` (default: 80 %% of the slower system's)"
    )
    parser.add_argument("--no-peer", action="store_true", help="Heddle alone")
    options = parser.parse_args()
    options.envs.mkdir(parents=True, exist_ok=True)
    _, about = report.heading(options, model=MODEL)
    with contextlib.ExitStack() as stack:
        heddle, peer = start(HEDDLE, options, stack), None
        if not options.no_peer:
            try:
                peer = start(PEER, options, stack)
            except Unavailable as unavailable:
                print(f"{PEER.name}: not measured: {unavailable}")
        bench = Bench(heddle, peer, options.rounds, options.step_tokens, options.rate)
        for part in (part for part in PARTS if part in options.only):
            getattr(bench, part)()
    about["disturbance"] = f"{statistics.median(bench.disturbance):.0%}"
    print(f"work of other processes on these cores: {about['disturbance']} (median)")
    print(table(bench.rows))
    report.write(options, about, bench.rows)


if __name__ == "__main__":
    main()
