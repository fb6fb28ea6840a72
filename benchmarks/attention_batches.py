"""Decode attention of batches: lengths that differ against equal ones, and a shared prefix as a cascade against without.

    python benchmarks/attention_batches.py --threads 2

`per KV byte` is the first batch's time for one KV token over the second's; both read tokens of one size.
"""

from __future__ import annotations

import dataclasses
import os
import statistics

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import report
from limits import seconds, use_cores
from paged import MODELS, Batch, prepare

from heddle.runtime.plans import Division
from heddle.schedules.target import TargetProfile

LENGTHS = [8192, 7168, 6144, 5120, 4096, 2048, 1024, 512]  # of the skewed batch
PREFIX, REQUESTS, OWN = 4096, 16, 64


@dataclasses.dataclass(frozen=True)
class Result:
    """Medians of two batches in paired rounds, and the median ratio."""

    model: str
    dtype: str
    what: str
    microseconds: float
    other_microseconds: float
    ratio: float


def compare(
    model: str,
    dtype: str,
    what: str,
    batches: tuple[tuple[Batch, Division, bool], tuple[Batch, Division, bool]],
    target: TargetProfile,
    rounds: int,
) -> Result:
    """Two batches in turns; the ratio is that of times for a KV token, the first's over the second's."""
    sides = [prepare(MODELS[model], b, dtype, target, division=d, rows_only=rows) for b, d, rows in batches]
    tokens = [batch.tokens for batch, _, _ in batches]
    repeat = [max(1, int(0.04 / seconds(side.call, 3))) for side in sides]
    times = [[seconds(side.call, n) for side, n in zip(sides, repeat, strict=True)] for _ in range(rounds)]
    first, second = (statistics.median(t) * 1e6 for t in zip(*times, strict=True))
    ratio = statistics.median(a / tokens[0] / (b / tokens[1]) for a, b in times)
    return Result(model, dtype, what, first, second, ratio)


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=15)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", default=["float16", "int8"])
    options = parser.parse_args()
    use_cores(options.threads)
    target, about = report.heading(options)
    division = Division(options.threads)
    skewed = Batch([length - 1 for length in LENGTHS])
    equal = Batch([sum(LENGTHS) // len(LENGTHS) - 1] * len(LENGTHS))
    shared = Batch([PREFIX + OWN + 5 * i for i in range(REQUESTS)], shared=PREFIX)
    apart = dataclasses.replace(division, cascade=False)
    cases = {
        "skewed / equal": ((skewed, division, True), (equal, division, True)),
        "alone / cascade": ((shared, apart, False), (shared, division, False)),
    }
    results = []
    print(f"{'model':14} {'dtype':>8} {'first / second':16} {'first us':>10} {'second us':>10} {'per KV byte':>12}")
    for model in options.models:
        for dtype in options.dtypes:
            for what, batches in cases.items():
                r = compare(model, dtype, what, batches, target, options.rounds)
                results.append(r)
                print(
                    f"{model:14} {dtype:>8} {what:16} {r.microseconds:10.1f} {r.other_microseconds:10.1f} {r.ratio:12.2f}",
                    flush=True,
                )
    report.write(options, about, results)


if __name__ == "__main__":
    main()
