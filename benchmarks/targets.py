"""The targets of one artifact against each other: speed of the same steps, size of libraries, time to compile and to load them.

    python benchmarks/targets.py --model qwen2.5-0.5b
    python benchmarks/targets.py --model llama-3.2-1b --rounds 30 --json targets.json

A model of a true shape with random weights is compiled in fresh processes, for the best target alone and for all of them. Then all
that this machine can run decode the same text and read the same prompt in turns, with the same weights in memory; ratios are
medians of ratios to the best target within a round. Logits must be equal in every bit.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np
from limits import use_cores
from model import MODELS
from report import describe, parser, write

from heddle.compiler.driver import compile_model
from heddle.runtime.artifact import Artifact, obstacle, open_artifact
from heddle.runtime.engine import Engine
from heddle.runtime.model import ModelRunner
from heddle.runtime.plans import PlanSequence
from heddle.runtime.sampling import SamplingParams
from heddle.runtime.tvm import Library
from heddle.schedules.target import resolve_targets

CONTEXT, PROMPT, STEPS = 128, 512, 6


@dataclasses.dataclass
class Row:
    """What was found of one target; `decode` and `prefill` are milliseconds, `*_ratio` are to the first target."""

    target: str
    library_kb: float
    load: float
    decode: float = 0.0
    decode_ratio: float = 0.0
    prefill: float = 0.0
    prefill_ratio: float = 0.0


def compile_child(source: str, output: str, scheme: str, *targets: str) -> None:
    """Compile in this process and print the seconds that it took, of the wall and of all cores."""
    start = time.perf_counter()
    compile_model(source, output, quant=scheme, target=targets, random_weights=0)
    print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time()}))


def measure_compile(source: Path, output: Path, scheme: str, targets: list[str]) -> dict[str, Any]:
    """Seconds of compiling for `targets` in a fresh process, without imports; weights are computed while code is generated."""
    command = [sys.executable, __file__, "--child", str(source), str(output), scheme, *targets]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"targets": targets, **json.loads(done.stdout.splitlines()[-1])}


class Variant:
    """A target of the artifact, ready to serve."""

    def __init__(self, artifact: Artifact, threads: int, tokens: int) -> None:
        group = artifact.manifest.caches[0]
        pages = -(-tokens // group.page_tokens) + 1
        library = artifact.file(artifact.target.library)
        start = time.perf_counter()
        Library(library)
        self.row = Row(artifact.target.name, library.stat().st_size / 1e3, (time.perf_counter() - start) * 1e3)
        self.runner = ModelRunner(artifact, kv_bytes=pages * group.record_bytes, threads=threads)
        self.engine = Engine(self.runner, None, eos_token_ids=[], chunk=512, prefix_cache=False)

    def logits(self, prompt: np.ndarray) -> np.ndarray:
        """Those of a prompt int32[n] in one step, and of its last token again by itself, in another."""
        pages = np.arange(-(-len(prompt) // self.runner.info.page_tokens), dtype=np.int32)
        rows = np.arange(len(prompt), dtype=np.int32)
        many = self.runner.forward([PlanSequence(pages, 0, len(prompt))], prompt, rows)
        one = self.runner.forward([PlanSequence(pages, len(prompt) - 1, 1)], prompt[-1:], rows[:1])
        return np.concatenate([many, one])

    def begin(self, prompt: list[int], tokens: int) -> None:
        """Read a prompt; `decode` goes on with its text."""
        self.engine.add(self.engine.prepare(prompt, greedy(tokens)))
        while self.engine.stats.decode.steps < 4:
            self.engine.step()

    def decode(self) -> float:
        """Milliseconds of a step, over a few."""
        self.engine.step()  # the weights of another variant's turn are in the caches
        start = time.perf_counter()
        for _ in range(STEPS):
            self.engine.step()
        return (time.perf_counter() - start) * 1e3 / STEPS

    def prefill(self, prompt: list[int]) -> float:
        """Milliseconds from a prompt to its first token."""
        start = time.perf_counter()
        self.engine.add(self.engine.prepare(prompt, greedy(1)))
        while self.engine.has_work:
            self.engine.step()
        return (time.perf_counter() - start) * 1e3


def greedy(tokens: int) -> SamplingParams:
    """So many tokens, whatever they are."""
    return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)


def in_turns(variants: list[Variant], rounds: int, what: str, *arguments: Any) -> None:
    """Measure `what` of all variants in turns, each round beginning with another one."""
    found: dict[str, list[float]] = {v.row.target: [] for v in variants}
    for i in range(rounds):
        at = i % len(variants)
        for variant in variants[at:] + variants[:at]:
            found[variant.row.target].append(getattr(variant, what)(*arguments))
    base = found[variants[0].row.target]
    for variant in variants:
        times = found[variant.row.target]
        setattr(variant.row, what, statistics.median(times))
        setattr(variant.row, f"{what}_ratio", statistics.median(a / b for a, b in zip(times, base, strict=True)))


def measure_run(artifact: Path, threads: int, rounds: int) -> list[Row]:
    """The rows of all targets that this machine can run."""
    use_cores(threads)
    manifest = open_artifact(artifact).manifest
    fitting = [t for t in manifest.targets if not obstacle(t)]
    tokens = CONTEXT + rounds * (STEPS + 1) + 8
    variants = [Variant(open_artifact(artifact, target=t.name), threads, max(tokens, PROMPT)) for t in fitting]
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, manifest.model.vocab_size, PROMPT, dtype=np.int32)
    expected = variants[0].logits(prompt[:40]).view(np.uint32)
    for variant in variants[1:]:
        if not np.array_equal(variant.logits(prompt[:40]).view(np.uint32), expected):
            raise RuntimeError(f"{variant.row.target} gives other bits than {variants[0].row.target}")
    for variant in variants:
        variant.begin(prompt[:CONTEXT].tolist(), tokens)
    in_turns(variants, rounds, "decode")
    for variant in variants:
        while variant.engine.has_work:
            variant.engine.step()
    in_turns(variants, max(3, rounds // 6), "prefill", prompt.tolist())
    return [variant.row for variant in variants]


def main() -> None:
    """Print both tables."""
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        compile_child(*sys.argv[2:])
        return
    made = parser(__doc__, rounds=30)
    made.set_defaults(target="portable")
    made.add_argument("--model", choices=MODELS, default="qwen2.5-0.5b")
    made.add_argument("--scheme", default="w4a8")
    made.add_argument("--keep", type=Path, help="a folder for the artifact (default: a temporary one)")
    options = made.parse_args()
    targets = [profile.name for profile in resolve_targets(options.target)]
    about = describe() | {"threads": str(options.threads), "model": options.model, "scheme": options.scheme}
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    with tempfile.TemporaryDirectory(dir=options.keep) as scratch:
        source, output = Path(scratch) / "model", (options.keep or Path(scratch)) / "model.heddle"
        source.mkdir()
        (source / "config.json").write_text(json.dumps(MODELS[options.model]))
        alone = Path(scratch) / "alone.heddle"
        compiled = [
            measure_compile(source, alone, options.scheme, targets[:1]),
            measure_compile(source, output, options.scheme, targets),
        ]
        for found in compiled:
            seconds, cpu = found["seconds"], found["cpu"]
            print(f"compiling for {len(found['targets'])}: {seconds:.1f} s, {cpu:.1f} s of processor time")
        rows = measure_run(output, options.threads, options.rounds)
    print(
        f"{'target':16} {'library kB':>10} {'load ms':>8} {'decode ms':>10} {'ratio':>6} {'prefill ms':>11} {'ratio':>6}"
    )
    for row in rows:
        print(
            f"{row.target:16} {row.library_kb:10.0f} {row.load:8.1f} {row.decode:10.2f} {row.decode_ratio:6.3f}"
            f" {row.prefill:11.1f} {row.prefill_ratio:6.3f}"
        )
    write(options, about, [*compiled, *rows])


if __name__ == "__main__":
    main()
