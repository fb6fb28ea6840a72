"""Linear kernels against this machine's limits, which are measured between the kernel's own rounds.

    python benchmarks/kernels.py --threads 2 --rows 1 8 n --json out.json

Weights rotate over a pool larger than the L3 cache, and the memory limit is the rate of reading that same pool. A
kernel's bound is the longer of its bytes at that rate and its operations at the fma rate; `of limit` is bound / median
time.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np
import report
from limits import allocate, compiled, multiplier, readers, seconds, tensor, use_cores

from heddle.schedules.catalog import linear, row_tile
from heddle.schedules.cpu.linear_spec import LinearSpec
from heddle.schedules.cpu.reference import itemsize
from heddle.schedules.registry import KERNELS
from heddle.schedules.target import TargetProfile
from heddle.schedules.vector import storage


@dataclasses.dataclass(frozen=True)
class Shape:
    """One linear layer of a model."""

    name: str
    in_features: int
    out_features: int
    epilogue: tuple[str, ...]


def layers(hidden: int, qkv: int, heads: int, ffn: int, vocab: int) -> list[Shape]:
    """The linear layers of a Llama-like model."""
    return [
        Shape("qkv", hidden, qkv, ("bias",)),
        Shape("o", heads, hidden, ("residual",)),
        Shape("gate_up", hidden, ffn, ("gated:silu",)),
        Shape("down", ffn, hidden, ("residual",)),
        Shape("head", hidden, vocab, ()),
    ]


MODELS = {
    "qwen2.5-0.5b": layers(896, 1152, 896, 4864, 151936),
    "llama-3.2-1b": layers(2048, 3072, 2048, 8192, 128256),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """Medians of one kernel; rates are those of its own rounds."""

    shape: str
    rows: str
    n: int
    dtype: str
    microseconds: float
    gigabytes: float
    gigaflops: float
    read_limit: float
    fma_limit: float
    of_limit: float


def arguments(spec: LinearSpec, rows: str, n: int, target: TargetProfile, pool: np.ndarray) -> list[list[object]]:
    """One argument list for each copy of the weight that fits `pool`; the other tensors are shared."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> object:
        array = allocate(max(4 * int(np.prod(shape)), 64)).view(np.float32)[: int(np.prod(shape))].reshape(shape)
        array[...] = rng.standard_normal(shape, dtype=np.float32)
        return tensor(array)

    tile = row_tile(target)
    x = floats(-(-n // tile), spec.in_features, tile) if rows == "n" else floats(n, spec.in_features)
    operands = [floats(spec.bias_size)] if "bias" in spec.epilogue else []
    operands += [floats(n, spec.out_features)] if "residual" in spec.epilogue else []
    y = floats(n, spec.out_features)
    size = int(np.prod(spec.weight_shape)) * itemsize(spec.weight_dtype)
    step = -(-size // 4096) * 4096
    stored = np.dtype(storage(spec.weight_dtype))
    copies = [pool[i : i + size].view(stored).reshape(spec.weight_shape) for i in range(0, pool.size - step + 1, step)]
    return [[x, tensor(w), *operands, y] for w in copies]


def measure(shape: Shape, rows: str, n: int, dtype: str, target: TargetProfile, threads: int, rounds: int) -> Result:
    """Medians over `rounds`, each of which times the memory limit, the fma limit and the kernel."""
    spec = LinearSpec(shape.in_features, shape.out_features, dtype, shape.epilogue)
    params = dataclasses.asdict(spec) | {"rows": rows}
    cost = KERNELS["linear"].cost(n=n, **params)
    weights = int(np.prod(spec.weight_shape)) * itemsize(dtype)
    pool = allocate(max(512 << 20, -(-weights // 4096) * 4096))
    pool.view(np.uint16)[...] = 0x2A2A  # a small normal number in every stored type
    kernel = compiled(linear(target=target, **params), target)
    calls = itertools.cycle([lambda a=a: kernel(*a) for a in arguments(spec, rows, n, target, pool)])
    multiply, flops = multiplier(target, threads)
    # One round lasts about 20 ms or one walk over the pool.
    repeat = max(1, min(pool.size // weights, int(8e9 / cost.flops)))
    for _ in range(3):
        next(calls)()
    times, reads, fmas = [], [], []
    for _ in range(rounds):
        reads.append([pool.size / seconds(read, 1) * 1e-9 for read in readers(pool, target)])
        times.append(seconds(lambda: next(calls)(), repeat))
        fmas.append(flops / seconds(multiply, 1) * 1e-9)
    time, fma = statistics.median(times), statistics.median(fmas)
    read = max(statistics.median(r) for r in zip(*reads, strict=True))
    bounds = [max(cost.bytes / max(r), cost.flops / f) * 1e-9 / t for t, r, f in zip(times, reads, fmas, strict=True)]
    rates = cost.bytes / time * 1e-9, cost.flops / time * 1e-9
    return Result(shape.name, rows, n, dtype, time * 1e6, *rates, read, fma, statistics.median(bounds))


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=7)
    parser.add_argument("--model", choices=MODELS, default="qwen2.5-0.5b")
    parser.add_argument("--shapes", nargs="+", default=["qkv", "o", "gate_up", "down", "head"])
    parser.add_argument("--rows", nargs="+", default=["1", "4", "8", "n"], help="row classes")
    parser.add_argument("--tokens", type=int, default=512, help="rows in class n")
    parser.add_argument("--dtypes", nargs="+", default=["float16"])
    options = parser.parse_args()
    use_cores(options.threads)
    target, about = report.heading(options, model=options.model)
    print("shape    rows     n     dtype        us   GB/s  GFLOP/s   read   fma  of limit")
    results = []
    for dtype, rows, shape in itertools.product(options.dtypes, options.rows, MODELS[options.model]):
        if shape.name not in options.shapes or (rows == "n" and shape.name == "head"):
            continue  # the head runs over few rows
        n = options.tokens if rows == "n" else int(rows)
        r = measure(shape, rows, n, dtype, target, options.threads, options.rounds)
        results.append(r)
        row = f"{r.shape:8} {r.rows:>4} {r.n:5} {r.dtype:>9} {r.microseconds:9.1f} {r.gigabytes:6.1f}"
        print(f"{row} {r.gigaflops:8.0f} {r.read_limit:6.1f} {r.fma_limit:5.0f}  {r.of_limit:6.0%}", flush=True)
    report.write(options, about, results)


if __name__ == "__main__":
    main()
