"""Quantized linear kernels for few rows against the rate at which this machine reads their weights.

    python benchmarks/quant.py --threads 2 --rows 1 4 8 --json out.json

Weights rotate over a pool larger than the L3 cache, and the limit is the rate of reading the same copies, each a buffer of the
weights' size on huge pages, between the kernel's own rounds. Times include the quantization and packing of activations.
`of limit` is the weight's bytes over that rate, divided by the time.
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
from limits import allocate, compiled, readers, seconds, tensor, use_cores

from heddle.schedules.cpu.quant_linear_rows import packed_rows, quant_linear_rows, quant_spec
from heddle.schedules.cpu.quant_pack import quant_pack
from heddle.schedules.cpu.quant_spec import QuantSpec
from heddle.schedules.layouts.quantized import packed_arrays
from heddle.schedules.target import TargetProfile

POOL = 512 << 20
LARGE = [Shape("4096x4096", 4096, 4096, ()), Shape("11008x4096", 4096, 11008, ()), Shape("151936x896", 896, 151936, ())]


@dataclasses.dataclass(frozen=True)
class Result:
    """Medians of one kernel; the rates are those of its own rounds."""

    shape: str
    scheme: str
    rows: int
    microseconds: float
    gigabytes: float
    read_limit: float
    of_limit: float


def aligned(array: np.ndarray) -> object:
    """A tensor with the contents of `array`, on huge pages."""
    size = max(array.nbytes, 64)
    copy = allocate(size)[: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return tensor(copy)


def weight_bytes(spec: QuantSpec) -> list[tuple[tuple[int, ...], np.dtype, int]]:
    """Shape, element type and bytes (in whole cache lines) of each packed array of the weight."""
    arrays = packed_arrays(spec.weight, spec.parts * spec.out_features, spec.in_features, spec.parts).values()
    return [(shape, dtype, -(-int(np.prod(shape)) * dtype.itemsize // 64) * 64) for shape, dtype in arrays]


def weight_copies(spec: QuantSpec, pool: np.ndarray) -> tuple[list[list[object]], list[np.ndarray]]:
    """The packed arrays of as many weights as the pool holds, and the bytes of each."""
    arrays = weight_bytes(spec)
    size = -(-sum(count for _, _, count in arrays) // 4096) * 4096
    weights, regions = [], []
    for begin in range(0, pool.size - size + 1, size):
        regions.append(pool[begin : begin + size])
        tensors, at = [], begin
        for shape, dtype, count in arrays:
            elements = int(np.prod(shape))
            tensors.append(tensor(pool[at : at + elements * dtype.itemsize].view(dtype).reshape(shape)))
            at += count
        weights.append(tensors)
    return weights, regions


def call(spec: QuantSpec, scheme: str, rows: int, target: TargetProfile) -> Callable[[list[object]], None]:
    """Quantize and pack `rows` rows, then multiply them with a weight."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, spec.in_features), dtype=np.float32)
    y = aligned(np.zeros((rows, spec.out_features), np.float32))
    operands = []
    if "bias" in spec.epilogue:
        operands.append(aligned(np.zeros(spec.parts * spec.tiles * 16, np.float32)))
    if "residual" in spec.epilogue:
        operands.append(aligned(np.zeros((rows, spec.out_features), np.float32)))
    shape = {"in_features": spec.in_features, "out_features": spec.out_features, "epilogue": spec.epilogue}
    linear = compiled(quant_linear_rows(rows=str(rows), scheme=scheme, target=target, **shape), target)
    packed = [aligned(a) for a in packed_rows(x, spec, rows)]
    if not spec.limbs:
        return lambda weight: linear(*packed, *weight, *operands, y)
    options = {**spec.coding(rows), "rows": rows, "norm": None}
    pack = compiled(quant_pack(features=spec.in_features, target=target, **options), target)
    source = aligned(x)

    def both(weight: list[object]) -> None:
        pack(source, *packed)
        linear(*packed, *weight, *operands, y)

    return both


def measure(shape: Shape, scheme: str, rows: int, target: TargetProfile, rounds: int) -> Result:
    """Medians over `rounds`, each of which times the reading of the weights and the kernel."""
    spec = quant_spec(shape.in_features, shape.out_features, scheme, shape.epilogue)
    size = sum(count for _, _, count in weight_bytes(spec))
    pool = allocate(max(POOL, -(-size // 4096) * 4096))
    pool.view(np.uint16)[...] = 0x2A2A  # a small normal number in float16
    weights, regions = weight_copies(spec, pool)
    kernel = call(spec, scheme, rows, target)
    calls = itertools.cycle([functools.partial(kernel, w) for w in weights])
    streams = [itertools.cycle(reads) for reads in zip(*[readers(r, target) for r in regions], strict=True)]
    repeat = max(1, min(len(weights), (256 << 20) // size))
    for _ in range(3):
        next(calls)()
    times, reads = [], []
    for _ in range(rounds):
        reads.append([size / seconds(lambda r=r: next(r)(), repeat) * 1e-9 for r in streams])
        times.append(seconds(lambda: next(calls)(), repeat))
    time, read = statistics.median(times), max(statistics.median(r) for r in zip(*reads, strict=True))
    ratios = [size / max(r) * 1e-9 / t for t, r in zip(times, reads, strict=True)]
    return Result(shape.name, scheme, rows, time * 1e6, size / time * 1e-9, read, statistics.median(ratios))


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=9)
    parser.add_argument("--model", choices=["large", *MODELS], default="large", help="whose layers to measure")
    parser.add_argument("--shapes", nargs="+", help="only these layers")
    parser.add_argument("--schemes", nargs="+", default=["w4a8-g32", "w4a16-g32", "w8a8", "w8a16"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 8], choices=[1, 2, 4, 8])
    options = parser.parse_args()
    use_cores(options.threads)
    target, about = report.heading(options, model=options.model)
    print("shape       scheme      rows        us   GB/s   read  of limit")
    results = []
    for shape, scheme, rows in itertools.product(
        {"large": LARGE, **MODELS}[options.model], options.schemes, options.rows
    ):
        if options.shapes and shape.name not in options.shapes:
            continue
        r = measure(shape, scheme, rows, target, options.rounds)
        results.append(r)
        row = f"{r.shape:11} {r.scheme:11} {r.rows:4} {r.microseconds:9.1f} {r.gigabytes:6.1f} {r.read_limit:6.1f}"
        print(f"{row}  {r.of_limit:6.0%}", flush=True)
    report.write(options, about, results)


if __name__ == "__main__":
    main()
