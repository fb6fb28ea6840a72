"""Heddle beside other engines: the same checkpoints of random weights, the same cores, in turns.

    python benchmarks/side_by_side.py --model qwen2.5-0.5b --threads 2 --rounds 5 --json results.json

Peers are installed on first use, each in a virtual environment of its own below `--envs`, next to what they load: openvino-genai
and onnxruntime-genai from wheels (their exports need torch, in a third and fourth environment), llama.cpp from source, which takes
ten minutes. One that cannot be installed, built or run is listed with its reason.

Every system is a worker process (`peers/*_worker.py`) pinned to the same cores; all but the one at work are stopped. A round runs
each operation on each system, beginning with another system every time, on prompts that it has not seen, as token ids:

    decode        one sequence from a context of 128 tokens, greedily, end tokens ignored
    decode_2048   the same from a context of 2048
    batch8        eight sequences from a context of 128
    prefill_512   until the first token of a prompt of 512

Rates are medians over rounds. The part of its roof is a decode rate over what reading alone would allow: the machine's read rate,
measured before each over as many bytes as our first system's weights, over the bytes of a token (weights and, of every token
before it, keys and values). A ratio to the best peer is the median of the rounds' ratios to the peer with the best median. Memory
is the peak resident memory of a worker at the end, mapped files included; what it loads was made by another process. Bits are
those streamed per weight.

The run says how much of the cores' work was other processes' meanwhile. Above a few per cent its figures are not worth keeping:
libraries whose threads wait for each other by spinning lose most.

`--prepare` does all but measuring. `--prototype DIR` adds the engine in that folder (see peers/prototype_worker.py), `--only` keeps
systems whose names have a part.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import report
from checkpoint import kv_elements, make_checkpoint, weights_a_token
from model import MODELS
from systems import LIMITS, SYSTEMS, System, Unavailable, Worker, prepared

from heddle.runtime.features import physical_cores

CONTEXT = 4096


@dataclasses.dataclass(frozen=True)
class Operation:
    """`count` tokens for each of `batch` prompts of `context` tokens; a count of one is a prefill."""

    name: str
    batch: int
    context: int
    count: int

    def rate(self, answer: dict[str, Any]) -> float:
        """Tokens per second. Unavailable where a system stopped early."""
        if answer["tokens"] != self.count:
            raise Unavailable(f"{self.name}: generated {answer['tokens']} tokens of {self.count}")
        if self.count == 1:
            return self.batch * self.context / float(answer["first"])
        return self.batch * (self.count - 1) / float(answer["rest"])


OPERATIONS = (
    Operation("decode", 1, 128, 33),
    Operation("decode_2048", 1, 2048, 33),
    Operation("batch8", 8, 128, 17),
    Operation("prefill_512", 1, 512, 1),
)


@dataclasses.dataclass
class Result:
    """What was measured of a system; of each operation one number a round, round 0 left out.

    `rates` are in tokens per second, `of_roof` parts of the roof, `disturbance` the part of the cores' work that was other
    processes', for each measurement. `reason`: why there is no more.
    """

    system: str
    kind: str
    streamed: int = 0
    stored: int = 0
    bits: float = 0.0
    kv_bytes_a_token: int = 0
    load_seconds: float = 0.0
    peak_memory: int = 0
    rates: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    of_roof: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    disturbance: list[float] = dataclasses.field(default_factory=list)
    reason: str = ""

    def median(self, operation: str) -> float:
        return statistics.median(self.rates[operation])


def roof(operation: Operation, streamed: int, kv_bytes_a_token: int, rate: float) -> float:
    """Tokens per second of one sequence where reading weights and KV is all that takes time; `rate` in bytes per second."""
    middle = operation.context + operation.count / 2
    return rate / (streamed + kv_bytes_a_token * middle)


def best_peer(results: Sequence[Result], operation: str) -> Result | None:
    """The peer with the best median."""
    return max(_of_kind(results, "peer"), key=lambda r: r.median(operation), default=None)


def _of_kind(results: Sequence[Result], kind: str) -> list[Result]:
    """Those of a kind that were measured."""
    return [r for r in results if r.kind == kind and not r.reason]


def ratio(mine: Result, peer: Result, operation: str) -> float:
    """The median of the rounds' ratios, which see the same minutes."""
    pairs = zip(mine.rates[operation], peer.rates[operation], strict=True)
    return statistics.median(a / b for a, b in pairs)


def table(results: Sequence[Result], operations: Sequence[Operation] = OPERATIONS) -> str:
    """All systems, then ours as ratios to the best peer."""
    names = [o.name for o in operations]
    width = max(len(r.system) for r in results)
    lines = [f"{'tokens/s':{width}} {' '.join(f'{n:>12}' for n in names)}     MB  bits  peak MB  load s"]
    for r in (r for r in results if not r.reason):
        cells = " ".join(f"{r.median(n):12.1f}" for n in names)
        lines.append(
            f"{r.system:{width}} {cells} {r.streamed / 1e6:6.0f} {r.bits:5.2f} {r.peak_memory / 1e6:8.0f} {r.load_seconds:7.2f}"
        )
    lines += [f"{r.system}: not measured: {r.reason}" for r in results if r.reason]
    lines += ["", "part of its roof"]
    for r in (r for r in results if r.of_roof and not r.reason):
        cells = [f"{statistics.median(r.of_roof[n]):12.0%}" if n in r.of_roof else " " * 12 for n in names]
        lines.append(f"{r.system:{width}} {' '.join(cells)}")
    best = {n: peer for n in names if (peer := best_peer(results, n))}
    if best:
        lines += ["", *_ratios("ratio to the best peer", results, best, _of_kind(results, "peer"), width)]
        lines += [f"best peer, {n}: {peer.system}" for n, peer in best.items()]
    for prototype in _of_kind(results, "prototype"):
        every = dict.fromkeys(names, prototype)
        lines += ["", *_ratios("ratio to the prototype", results, every, [prototype], width)]
    return "\n".join(lines)


def _ratios(
    title: str, results: Sequence[Result], other: dict[str, Result], memory_of: Sequence[Result], width: int
) -> list[str]:
    """Lines of Heddle's systems: ratios to the other of each operation, and of memory to the least of `memory_of`."""
    least = min(r.peak_memory for r in memory_of)
    lines = [f"{title:{width}} {' '.join(f'{n:>12}' for n in other)}     peak MB"]
    for r in _of_kind(results, "heddle"):
        cells = " ".join(f"{ratio(r, o, n):12.2f}" for n, o in other.items())
        lines.append(f"{r.system:{width}} {cells} {r.peak_memory / least if least else 0:11.2f}")
    return lines


def start(
    systems: Sequence[System], checkpoint: Path, options: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[list[Result], list[Worker | None]]:
    """Install, build and load every system, one after another; a worker for each that can."""
    cores, config = physical_cores()[: options.threads], MODELS[options.model]
    results, workers = [], []
    for system in systems:
        result = Result(system.name, system.kind, kv_bytes_a_token=system.kv_bytes * kv_elements(config))
        worker = None
        try:
            print(f"preparing {system.name}", file=sys.stderr, flush=True)
            home, said = prepared(system, checkpoint, options.envs)
            result.stored, result.streamed = said["stored"], said["streamed"]
            result.bits = 8 * result.streamed / weights_a_token(config)
            if not options.prepare:
                worker = stack.enter_context(Worker(system, options.envs, home, cores, CONTEXT))
                result.load_seconds = worker.load_seconds
        except Unavailable as unavailable:
            result.reason = str(unavailable)
            print(f"{system.name}: {unavailable}", file=sys.stderr, flush=True)
        results.append(result)
        workers.append(worker)
    return results, workers


def measure(
    results: Sequence[Result], workers: list[Worker | None], limits: Worker, vocab_size: int, rounds: int
) -> list[float]:
    """Fill in rates and memory; gives the read rates in GB/s, one before each decode of one sequence.

    Round 0 warms up and is not counted.
    """
    rng = np.random.default_rng(0)
    size = next((r.streamed for r in _of_kind(results, "heddle")), 512 << 20)
    read: list[float] = []
    for turn in range(rounds + 1):
        for operation in OPERATIONS:
            for i in np.roll(np.arange(len(workers)), -turn):
                worker, result = workers[i], results[i]
                if worker is None:
                    continue
                prompts = rng.integers(0, vocab_size, (operation.batch, operation.context)).tolist()
                decodes = operation.batch == 1 and operation.count > 1
                limit = float(limits.ask(rate=size)["rate"]) if decodes else 0.0
                try:
                    rate = operation.rate(worker.ask(prompts=prompts, count=operation.count))
                except Unavailable as unavailable:
                    result.reason, workers[i] = str(unavailable), None
                    print(f"{result.system}: {unavailable}", file=sys.stderr, flush=True)
                    continue
                print(f"round {turn} {operation.name:12} {result.system:32} {rate:8.1f}", file=sys.stderr, flush=True)
                if turn:
                    result.rates.setdefault(operation.name, []).append(rate)
                    result.disturbance.append(worker.disturbance)
                if turn and decodes:
                    read.append(limit)
                    top = roof(operation, result.streamed, result.kv_bytes_a_token, limit * 1e9)
                    result.of_roof.setdefault(operation.name, []).append(rate / top)
    for result, worker in zip(results, workers, strict=True):
        if worker is not None:
            result.peak_memory = int(worker.ask(memory=True)["peak"])
    return read


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--model", choices=MODELS, default="qwen2.5-0.5b")
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "heddle-bench", help="where peers live")
    parser.add_argument("--only", nargs="+", metavar="PART", help="systems whose names have one of these parts")
    parser.add_argument("--prototype", type=Path, metavar="DIR", help="also measure the engine in this folder")
    parser.add_argument("--prepare", action="store_true", help="only install peers and make what systems load")
    options = parser.parse_args()
    systems = [s for s in SYSTEMS if not options.only or any(part in s.name for part in options.only)]
    if options.prototype:
        systems.append(System("prototype", "prototype", str(options.prototype.resolve()), 2))
    _, about = report.heading(options, model=options.model)
    options.envs.mkdir(parents=True, exist_ok=True)
    config = MODELS[options.model]
    checkpoint = make_checkpoint(config, options.envs / "checkpoints" / options.model)
    with contextlib.ExitStack() as stack:
        results, workers = start(systems, checkpoint, options, stack)
        if options.prepare:
            return
        limits = stack.enter_context(
            Worker(LIMITS, options.envs, options.envs, physical_cores()[: options.threads], CONTEXT)
        )
        read = measure(results, workers, limits, config["vocab_size"], options.rounds)
    if read:
        disturbance = statistics.median(part for result in results for part in result.disturbance)
        about |= {"read_gb_s": f"{statistics.median(read):.1f}", "disturbance": f"{disturbance:.0%}"}
        print(f"read rate: {about['read_gb_s']} GB/s (least {min(read):.1f}, most {max(read):.1f})")
        print(f"work of other processes on these cores: {about['disturbance']} (median)")
    print(table(results))
    report.write(options, about, results)


if __name__ == "__main__":
    main()
