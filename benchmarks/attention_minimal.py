"""Decode attention over the paged cache against minimal kernels (minimal_decode.py), in turns, under the same conditions.

    python benchmarks/attention_minimal.py --threads 2

Both read one layer on huge pages with the same threads on the same cores. `speed` is the minimal kernel's time over ours:
what plans, variants, splits and equal bits for every batch cost. Cases beyond 1.2 GB of keys and values are left out.
The minimal kernels are checked against NumPy first, on short sequences.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
from collections.abc import Callable, Sequence

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np
import report
from limits import compiled, seconds, tensor, use_cores
from minimal_decode import float_kernel, int8_kernel
from minimal_inputs import Inputs, float_inputs, int8_inputs
from paged import MODELS, Batch, Heads, aligned, prepare

from heddle.runtime.plans import Division
from heddle.schedules.target import TargetProfile

MOST_BYTES = 1.2e9
TOLERANCES = {"float32": 1e-5, "float16": 1e-5, "int8": 2e-2}  # int8: the weights are rounded to 8 bits


@dataclasses.dataclass(frozen=True)
class Result:
    """Medians of our kernel and the minimal one, and the median of the ratios of paired rounds."""

    model: str
    dtype: str
    batch: int
    tokens: int
    microseconds: float
    minimal_microseconds: float
    speed: float


def inputs(heads: Heads, lengths: Sequence[int], dtype: str) -> Inputs:
    """Inputs of the minimal kernel for this type."""
    rng = np.random.default_rng(0)
    return int8_inputs(heads, lengths, rng) if dtype == "int8" else float_inputs(heads, lengths, dtype, rng)


def check(kernel: Callable[..., None], heads: Heads, dtype: str) -> float:
    """What the minimal kernel differs from NumPy on short sequences, asserted to be small.

    The root mean square of the differences over that of the results, the largest of the sequences.
    """
    lengths = [300, 1, 256, 517]
    case = inputs(heads, lengths, dtype)
    out = aligned(np.zeros((len(lengths), heads.heads, heads.head_dim), np.float32))
    kernel(*map(tensor, case.arrays), tensor(out))
    errors = []
    for b in range(len(lengths)):
        expected = case.attention(b)
        errors.append(float(np.sqrt(((out[b] - expected) ** 2).mean() / (expected**2).mean())))
    assert max(errors) < TOLERANCES[dtype], f"{dtype}, {heads}: the minimal kernel differs from NumPy by {errors}"
    return max(errors)


def measure(
    model: str,
    dtype: str,
    batch: int,
    tokens: int,
    kernel: Callable[..., None],
    target: TargetProfile,
    threads: int,
    rounds: int,
) -> Result:
    """Rounds of ours and the minimal kernel in turns."""
    heads = MODELS[model]
    equal, division = Batch([tokens - 1] * batch), Division(threads)
    ours = prepare(heads, equal, dtype, target, division=division, rows_only=True, layers=1)
    out = aligned(np.zeros((batch, heads.heads, heads.head_dim), np.float32))
    minimal = functools.partial(kernel, *map(tensor, (*inputs(heads, [tokens] * batch, dtype).arrays, out)))
    repeat = [max(1, int(0.04 / seconds(call, 3))) for call in (ours.call, minimal)]
    times = [(seconds(ours.call, repeat[0]), seconds(minimal, repeat[1])) for _ in range(rounds)]
    mine, other = (statistics.median(t) * 1e6 for t in zip(*times, strict=True))
    return Result(model, dtype, batch, tokens, mine, other, statistics.median(b / a for a, b in times))


def kv_bytes(heads: Heads, dtype: str, tokens: int) -> int:
    """Bytes of keys and values that a call reads."""
    row = 2 * (heads.head_dim + 4) if dtype == "int8" else 2 * heads.head_dim * np.dtype(dtype).itemsize
    return tokens * heads.kv_heads * row


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=15)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["qwen2.5-0.5b", "llama-3.1-8b"])
    parser.add_argument("--dtypes", nargs="+", choices=TOLERANCES, default=list(TOLERANCES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 32768])
    options = parser.parse_args()
    use_cores(options.threads)
    target, about = report.heading(options)
    if target.vector_bits < 512:
        raise SystemExit(f"nothing to compare with: the minimal kernels need AVX-512, which {target.name} has not")
    dtypes = [d for d in options.dtypes if d != "int8" or target.dots]
    if dtypes != options.dtypes:
        print(f"int8 left out: its minimal kernel needs VNNI, which {target.name} has not")
    results = []
    print(f"{'model':14} {'dtype':>8} {'batch':>5} {'tokens':>6} {'us':>10} {'minimal us':>10} {'speed':>7}")
    for model in options.models:
        for dtype in dtypes:
            heads = MODELS[model]
            kernel = compiled(int8_kernel(heads) if dtype == "int8" else float_kernel(heads, dtype), target)
            print(f"{model:14} {dtype:>8} minimal kernel, difference from NumPy: {check(kernel, heads, dtype):.1e}")
            for batch in options.batches:
                for tokens in options.tokens:
                    if kv_bytes(heads, dtype, batch * tokens) > MOST_BYTES:
                        continue
                    r = measure(model, dtype, batch, tokens, kernel, target, options.threads, options.rounds)
                    results.append(r)
                    print(
                        f"{r.model:14} {r.dtype:>8} {r.batch:5} {r.tokens:6} {r.microseconds:10.1f} {r.minimal_microseconds:10.1f}"
                        f" {r.speed:6.2f}x",
                        flush=True,
                    )
    report.write(options, about, results)


if __name__ == "__main__":
    main()
