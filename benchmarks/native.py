"""heddle-run beside the Python runtime: the same artifact, the same cores, in turns.

    python benchmarks/native.py --model qwen2.5-0.5b --quant w4a8 --threads 2 --rounds 5 --json results.json

Without `--model` the example model is measured, else random weights of true shapes, as in side_by_side.py. A round runs each
operation on one and then on the other, the one that begins changing every round; the ratio is the median of the rounds' ratios:

    decode        tokens/s of one sequence from a context of 128 tokens, greedily, end tokens ignored
    decode_long   the same from a context of 1024
    batch8        eight sequences from a context of 128
    prefill_512   until the first token of a prompt of 512
    start         milliseconds from starting the command to the first byte of its answer (`heddle-run`, `heddle run`)

Memory is the peak resident memory at the end, mapped files included. The program is a process of its own for each measurement,
the Python runtime one process for all of them, which is stopped when it is not its turn.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import report
from checkpoint import make_checkpoint
from model import MODELS
from side_by_side import Operation
from systems import System, Worker

from heddle.compiler.driver import compile_model
from heddle.compiler.native import build_runner
from heddle.runtime.artifact import open_artifact
from heddle.runtime.features import physical_cores

ROOT = Path(__file__).parents[1]
CONTEXT = 2048
REPEATS = 3
"""Measurements of a round, of which medians are taken."""


OPERATIONS = (
    Operation("decode", 1, 128, 65),
    Operation("decode_long", 1, 1024, 65),
    Operation("batch8", 8, 128, 33),
    Operation("prefill_512", 1, 512, 1),
)


@dataclasses.dataclass
class Native:
    """heddle-run on `cores`; `peak` is the most memory that any of its processes had, `load` the last one's loading time."""

    program: Path
    artifact: Path
    cores: Sequence[int]
    kv_bytes: int
    peak: int = 0
    load: float = 0.0

    def rate(self, operation: Operation) -> float:
        """Tokens per second."""
        options = [f"--bench={REPEATS}", f"--lengths={operation.context}", f"--batch={operation.batch}"]
        options += [f"--max-tokens={operation.count}", f"--threads={len(self.cores)}", f"--kv-memory={self.kv_bytes}"]
        command = [str(self.program), str(self.artifact), "--json", *options]
        said = subprocess.run(pinned(self.cores, command), stdout=subprocess.PIPE, check=True).stdout
        found = json.loads(said)
        self.peak, self.load = max(self.peak, found["peak_memory"]), found["load_seconds"]
        kind = "prompt_tokens_per_second" if operation.count == 1 else "decode_tokens_per_second"
        return float(found["results"][0][kind]["median"])

    def start(self) -> float:
        """Seconds to the first byte of an answer."""
        return first_byte(pinned(self.cores, [str(self.program), str(self.artifact), *asked(self.cores)]))


@dataclasses.dataclass
class Python:
    """The Python runtime in a process of its own."""

    worker: Worker
    artifact: Path
    cores: Sequence[int]
    vocab_size: int
    rng: np.random.Generator

    def rate(self, operation: Operation) -> float:
        """Tokens per second."""
        rates = []
        for repeat in range(REPEATS + 1):
            shape = (operation.batch, operation.context)
            answer = self.worker.ask(
                prompts=self.rng.integers(0, self.vocab_size, shape).tolist(), count=operation.count
            )
            tokens = operation.batch * (operation.context if operation.count == 1 else operation.count - 1)
            seconds = answer["first" if operation.count == 1 else "rest"]
            if repeat:  # heddle-run does not count its first either
                rates.append(tokens / seconds)
        return statistics.median(rates)

    def start(self) -> float:
        """Seconds to the first byte of an answer."""
        command = [sys.executable, "-m", "heddle.cli", "run", str(self.artifact), *asked(self.cores)]
        return first_byte(pinned(self.cores, command))


def asked(cores: Sequence[int]) -> list[str]:
    return ["The command", "--temperature=0", "--max-tokens=1", f"--threads={len(cores)}"]


def pinned(cores: Sequence[int], command: list[str]) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


def first_byte(command: list[str]) -> float:
    """Seconds until a command's first output."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - begin
        process.stdout.read()
    if not first:
        raise RuntimeError(f"{' '.join(command)} printed nothing, exit code {process.returncode}")
    return seconds


def measure(native: Native, python: Python, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Of each operation one number a round for both; rates in tokens/s, `start` in milliseconds. Round 0 is not counted."""
    found: dict[str, dict[str, list[float]]] = {}
    jobs: list[tuple[str, Callable[[Native | Python], float]]] = [
        (operation.name, lambda who, operation=operation: who.rate(operation)) for operation in OPERATIONS
    ]
    jobs.append(("start", lambda who: who.start() * 1e3))
    both: list[tuple[str, Native | Python]] = [("heddle-run", native), ("python", python)]
    for turn in range(rounds + 1):
        for job, run in jobs:
            for name, who in both if turn % 2 else both[::-1]:
                value = run(who)
                print(f"round {turn} {job:12} {name:12} {value:10.1f}", file=sys.stderr, flush=True)
                if turn:
                    found.setdefault(job, {}).setdefault(name, []).append(value)
    return found


def table(found: dict[str, dict[str, list[float]]], peaks: dict[str, int]) -> str:
    """Medians of both, and the median of the rounds' ratios."""
    lines = [f"{'':14} {'heddle-run':>12} {'python':>12} {'ratio':>8}"]
    for job, rates in found.items():
        native, python = rates["heddle-run"], rates["python"]
        ratio = statistics.median(a / b for a, b in zip(native, python, strict=True))
        name = f"{job} ms" if job == "start" else job
        lines.append(f"{name:14} {statistics.median(native):12.1f} {statistics.median(python):12.1f} {ratio:8.3f}")
    ratio = peaks["heddle-run"] / peaks["python"]
    lines.append(f"{'peak MB':14} {peaks['heddle-run'] / 1e6:12.1f} {peaks['python'] / 1e6:12.1f} {ratio:8.3f}")
    return "\n".join(lines)


def find_artifact(options: Any, folder: Path) -> Path:
    """The artifact of the model that is asked for, compiled again each time, as the code may have changed."""
    source = ROOT / "examples" / "tinydoc"
    if options.model:
        source = make_checkpoint(MODELS[options.model], options.envs / "checkpoints" / options.model)
    more = {"quant": options.quant} if options.quant else {}
    return compile_model(source, folder / "model.heddle", target=options.target, **more)


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--model", choices=MODELS, help="random weights of these shapes (default: the example model)")
    parser.add_argument("--quant", help="a quantization scheme (default: as stored)")
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "heddle-bench", help="for checkpoints")
    options = parser.parse_args()
    name = options.model or "tinydoc"
    _, about = report.heading(options, model=name, quant=options.quant or "none")
    folder = options.envs / "native" / f"{name}-{options.quant or 'none'}"
    folder.mkdir(parents=True, exist_ok=True)
    artifact = find_artifact(options, folder)
    cores = physical_cores()[: options.threads]
    os.environ["TVM_BIND_THREADS"] = "0"
    manifest = open_artifact(artifact).manifest
    group = manifest.caches[0]
    # All of a batch at once; the worker gives its pool the size of one context.
    tokens = max(CONTEXT, *(o.batch * (o.context + o.count + group.page_tokens) for o in OPERATIONS))
    pool = -(-tokens // group.page_tokens) * group.record_bytes
    native = Native(build_runner().program, artifact, cores, pool)
    with Worker(System("python", "heddle", "null", 0), folder, folder, cores, CONTEXT) as worker:
        python = Python(worker, artifact, cores, manifest.model.vocab_size, np.random.default_rng(0))
        found = measure(native, python, options.rounds)
        peaks = {"heddle-run": native.peak, "python": int(worker.ask(memory=True)["peak"])}
        print(table(found, peaks))
    loads = {"heddle-run": native.load, "python": worker.load_seconds}
    report.write(options, about, [{"rates": found, "peak_memory": peaks, "load_seconds": loads}])


if __name__ == "__main__":
    main()
