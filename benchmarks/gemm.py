"""The linear kernel for many rows against this machine's rate of fused multiply-adds, measured between its own rounds.

    python benchmarks/gemm.py --threads 2 --tokens 128 512 --json out.json

Weights rotate over a pool larger than the L3 cache. Times include the packing of the rows; `packing` says how much that is.
`of peak` is the rate of the whole over `limits.multiplier`, which only multiplies and adds in registers.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import statistics
from collections.abc import Callable

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np
import report
from kernels import MODELS, Shape, arguments
from limits import allocate, compiled, multiplier, seconds, use_cores
from quant import aligned

from heddle.schedules.catalog import linear, pack_rows
from heddle.schedules.cpu.linear_spec import LinearSpec
from heddle.schedules.registry import KERNELS
from heddle.schedules.target import TargetProfile

POOL = 256 << 20
SQUARE = [Shape("4096x4096", 4096, 4096, ())]


@dataclasses.dataclass(frozen=True)
class Result:
    """Medians of one kernel; rates in GFLOP/s are those of its own rounds."""

    shape: str
    dtype: str
    rows: int
    microseconds: float
    packing: float
    rate: float
    peak: float
    of_peak: float


def calls(spec: LinearSpec, n: int, target: TargetProfile) -> tuple[Callable[[], None], Callable[[], None]]:
    """Pack `n` rows; multiply them with the next weight."""
    params = dataclasses.asdict(spec) | {"rows": "n"}
    pool = allocate(POOL)
    pool.view(np.uint16)[...] = 0x2A2A  # a small normal number in every stored type
    lists = arguments(spec, "n", n, target, pool)
    multiply = compiled(linear(target=target, **params), target)
    pack = compiled(pack_rows(features=spec.in_features, norm=None, target=target), target)
    x = aligned(np.random.default_rng(0).standard_normal((n, spec.in_features), dtype=np.float32))
    weights = itertools.cycle(lists)
    return functools.partial(pack, x, lists[0][0]), lambda: multiply(*next(weights))


def measure(shape: Shape, dtype: str, n: int, target: TargetProfile, threads: int, rounds: int) -> Result:
    """Medians over `rounds`, each of which times the peak before and after the kernel and takes the mean of both."""
    spec = LinearSpec(shape.in_features, shape.out_features, dtype, shape.epilogue)
    pack, multiply = calls(spec, n, target)
    peak, peak_flops = multiplier(target, threads)
    flops = KERNELS["linear"].cost(n=n, rows="n", **dataclasses.asdict(spec)).flops
    repeat = max(1, int(5e9 / flops))

    def both() -> None:
        pack()
        multiply()

    both()
    times, packs, peaks = [], [], []
    for _ in range(rounds):
        before = seconds(peak, 1)
        times.append(seconds(both, repeat))
        peaks.append(peak_flops * 2 / (before + seconds(peak, 1)))
        packs.append(seconds(pack, repeat))
    time, pack_time = statistics.median(times), statistics.median(packs)
    rates = flops / time * 1e-9, statistics.median(peaks) * 1e-9
    ratio = statistics.median(flops / t / p for t, p in zip(times, peaks, strict=True))
    return Result(shape.name, dtype, n, time * 1e6, pack_time / time, *rates, ratio)


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=9)
    parser.add_argument("--model", choices=["square", *MODELS], default="square", help="whose layers to measure")
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[128, 512])
    options = parser.parse_args()
    use_cores(options.threads)
    target, about = report.heading(options, model=options.model)
    print("shape       dtype     rows         us  packing GFLOP/s    peak  of peak")
    shapes = SQUARE if options.model == "square" else [s for s in MODELS[options.model] if s.name != "head"]
    results = []
    for shape, dtype, n in itertools.product(shapes, options.dtypes, options.tokens):
        r = measure(shape, dtype, n, target, options.threads, options.rounds)
        results.append(r)
        row = f"{r.shape:11} {r.dtype:9} {r.rows:4} {r.microseconds:10.1f} {r.packing:8.1%} {r.rate:7.0f}"
        print(f"{row} {r.peak:7.0f}  {r.of_peak:7.1%}", flush=True)
    report.write(options, about, results)


if __name__ == "__main__":
    main()
