"""Attention over the paged cache against this machine's limits, which are measured between the kernel's own rounds.

    python benchmarks/attention.py --threads 2 --model qwen2.5-0.5b --dtypes float16 float32

A kernel's bound is the longer of its bytes at the memory's rate and its operations at the fma rate;
`of limit` is bound / median time.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import report
from limits import allocate, multiplier, readers, seconds, use_cores
from paged import CACHE_BYTES, MODELS, Batch, prepare

from heddle.runtime.plans import Division
from heddle.schedules.registry import KERNELS
from heddle.schedules.target import TargetProfile


@dataclasses.dataclass(frozen=True)
class Step:
    """`seqs` sequences of `new` rows each after `start` tokens."""

    name: str
    seqs: int
    start: int
    new: int


STEPS = [
    Step("decode", 1, 511, 1),
    Step("decode", 1, 4095, 1),
    Step("decode", 8, 1023, 1),
    Step("decode", 1, 32767, 1),
    Step("prefill", 1, 0, 512),
    Step("prefill", 1, 0, 2048),
    Step("chunk", 1, 7680, 512),
]


@dataclasses.dataclass(frozen=True)
class Result:
    """Medians of one kernel; rates are those of its own rounds."""

    model: str
    step: str
    seqs: int
    start: int
    new: int
    dtype: str
    microseconds: float
    gigabytes: float
    gigaflops: float
    read_limit: float
    fma_limit: float
    of_limit: float


def measure(name: str, step: Step, dtype: str, target: TargetProfile, threads: int, rounds: int) -> Result:
    """Medians over `rounds`, each of which times the memory limit, the fma limit and the kernel."""
    model, rows_only = MODELS[name], step.name == "decode"
    batch = Batch([step.start + 13 * i for i in range(step.seqs)], step.new)
    call = prepare(model, batch, dtype, target, division=Division(threads), rows_only=rows_only).call
    rows = "row" if rows_only else "any"
    sizes = {"seqs": step.seqs, "start": step.start, "new": step.new, "window": 0, "rows": rows}
    cost = KERNELS["attention"].cost(**dataclasses.asdict(model), kv_dtype=dtype, **sizes)
    multiply, flops = multiplier(target, threads)
    memory = allocate(CACHE_BYTES)

    repeat = max(1, min(256, int(4e-2 / max(cost.bytes / 3e10, cost.flops / 2e11))))
    seconds(call, 3)
    times, reads, fmas = [], [], []
    for _ in range(rounds):
        reads.append([memory.size / seconds(read, 1) * 1e-9 for read in readers(memory, target)])
        times.append(seconds(call, repeat))
        fmas.append(flops / seconds(multiply, 1) * 1e-9)
    time, fma = statistics.median(times), statistics.median(fmas)
    read = max(statistics.median(r) for r in zip(*reads, strict=True))
    bounds = [max(cost.bytes / max(r), cost.flops / f) * 1e-9 / t for t, r, f in zip(times, reads, fmas, strict=True)]
    rates = cost.bytes / time * 1e-9, cost.flops / time * 1e-9
    fields = name, step.name, step.seqs, step.start, step.new, dtype
    return Result(*fields, time * 1e6, *rates, read, fma, statistics.median(bounds))


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["qwen2.5-0.5b", "llama-3.1-8b"])
    parser.add_argument(
        "--steps", nargs="+", choices=["decode", "prefill", "chunk"], default=["decode", "prefill", "chunk"]
    )
    parser.add_argument("--dtypes", nargs="+", default=["float16"])
    options = parser.parse_args()
    use_cores(options.threads)
    target, about = report.heading(options)
    print(
        f"{'model':14} {'step':8} {'seqs':>4} {'start':>6} {'new':>5} {'dtype':>9} {'us':>9} {'GB/s':>6} {'GFLOP/s':>8}"
        f" {'read':>6} {'fma':>5}  of limit"
    )
    results = []
    for name, dtype, step in itertools.product(options.models, options.dtypes, STEPS):
        if step.name not in options.steps:
            continue
        r = measure(name, step, dtype, target, options.threads, options.rounds)
        results.append(r)
        print(
            f"{r.model:14} {r.step:8} {r.seqs:4} {r.start:6} {r.new:5} {r.dtype:>9} {r.microseconds:9.1f}"
            f" {r.gigabytes:6.1f} {r.gigaflops:8.0f} {r.read_limit:6.1f} {r.fma_limit:5.0f}  {r.of_limit:6.0%}",
            flush=True,
        )
    report.write(options, about, results)


if __name__ == "__main__":
    main()
