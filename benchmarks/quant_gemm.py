"""Quantized linear kernels for many rows against this machine's rate of 8-bit dot products, measured between their own rounds.

    python benchmarks/quant_gemm.py --threads 2 --tokens 128 512 --json out.json

Weights rotate over a pool larger than the L3 cache. Times include the quantization and packing of the activations; `packing`
says how much that is. `of peak` is the rate of the whole over `limits.integer_multiplier`, which only multiplies in registers.
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
from kernels import MODELS, Shape
from limits import allocate, compiled, integer_multiplier, seconds, use_cores
from quant import aligned, weight_copies

from heddle.schedules.cpu.quant_linear_rows import packed_rows, quant_spec
from heddle.schedules.cpu.quant_linear_tiles import quant_linear_tiles
from heddle.schedules.cpu.quant_pack import quant_pack
from heddle.schedules.cpu.quant_spec import QuantSpec
from heddle.schedules.layouts.rows import ROW_TILE
from heddle.schedules.target import TargetProfile

POOL = 128 << 20
SQUARE = [Shape("4096x4096", 4096, 4096, ())]


@dataclasses.dataclass(frozen=True)
class Result:
    """Medians of one kernel; rates in GOP/s (a product and its sum are two) are those of its own rounds."""

    shape: str
    scheme: str
    rows: int
    microseconds: float
    packing: float
    rate: float
    peak: float
    of_peak: float


def calls(
    spec: QuantSpec, scheme: str, n: int, target: TargetProfile
) -> tuple[Callable[[], None], Callable[[list[object]], None]]:
    """Quantize and pack `n` rows; multiply them with a weight."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, spec.in_features), dtype=np.float32)
    packed = [aligned(a) for a in packed_rows(x, spec, ROW_TILE)]
    sizes = {"bias": (spec.parts * spec.tiles * 16,), "residual": (n, spec.out_features)}
    operands = [aligned(np.zeros(sizes[e], np.float32)) for e in spec.epilogue if e in sizes]
    y = aligned(np.zeros((n, spec.out_features), np.float32))
    shape = {"in_features": spec.in_features, "out_features": spec.out_features, "epilogue": spec.epilogue}
    linear = compiled(quant_linear_tiles(scheme=scheme, target=target, **shape), target)
    options = {**spec.coding(ROW_TILE), "rows": ROW_TILE, "norm": None}
    pack = compiled(quant_pack(features=spec.in_features, target=target, **options), target)
    return functools.partial(pack, aligned(x), *packed), lambda weight: linear(*packed, *weight, *operands, y)


def measure(shape: Shape, scheme: str, n: int, target: TargetProfile, threads: int, rounds: int) -> Result:
    """Medians over `rounds`, each of which times the peak before and after the kernel and takes the mean of both."""
    spec = quant_spec(shape.in_features, shape.out_features, scheme, shape.epilogue)
    pool = allocate(POOL)
    pool.view(np.uint16)[...] = 0x2A2A  # a small normal number in float16
    weights = itertools.cycle(weight_copies(spec, pool)[0])
    pack, multiply = calls(spec, scheme, n, target)
    peak, peak_operations = integer_multiplier(target, threads)
    operations = 2 * n * spec.in_features * spec.out_features * spec.parts
    repeat = max(1, int(1e10 / operations))

    def both() -> None:
        pack()
        multiply(next(weights))

    both()
    times, packs, peaks = [], [], []
    for _ in range(rounds):
        before = seconds(peak, 1)
        times.append(seconds(both, repeat))
        peaks.append(peak_operations * 2 / (before + seconds(peak, 1)))
        packs.append(seconds(pack, repeat))
    time, pack_time = statistics.median(times), statistics.median(packs)
    ratios = [operations / t / p for t, p in zip(times, peaks, strict=True)]
    rates = operations / time * 1e-9, statistics.median(peaks) * 1e-9
    return Result(shape.name, scheme, n, time * 1e6, pack_time / time, *rates, statistics.median(ratios))


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=9)
    parser.add_argument("--model", choices=["square", *MODELS], default="square", help="whose layers to measure")
    parser.add_argument("--schemes", nargs="+", default=["w8a8", "w4a8-g32-ag", "w4a8-g32", "w4a8-g32-2l"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[128, 512])
    options = parser.parse_args()
    use_cores(options.threads)
    target, about = report.heading(options, model=options.model)
    print("shape       scheme       rows         us  packing   GOP/s    peak  of peak")
    shapes = SQUARE if options.model == "square" else [s for s in MODELS[options.model] if s.name != "head"]
    results = []
    for shape, scheme, n in itertools.product(shapes, options.schemes, options.tokens):
        r = measure(shape, scheme, n, target, options.threads, options.rounds)
        results.append(r)
        row = f"{r.shape:11} {r.scheme:12} {r.rows:4} {r.microseconds:10.1f} {r.packing:8.1%} {r.rate:7.0f}"
        print(f"{row} {r.peak:7.0f}  {r.of_peak:7.1%}", flush=True)
    report.write(options, about, results)


if __name__ == "__main__":
    main()
