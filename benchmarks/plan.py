"""The compiled plan builder against NumPy's: microseconds to plan one step, Python's part included.

python benchmarks/plan.py
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
import report
from limits import compiled

from heddle.runtime.plans import PAGE, Division, PlanBuilder, PlanLayout, PlanSequence, StepArrays
from heddle.runtime.tvm import empty, tensor
from heddle.schedules.catalog import build_plan


@dataclasses.dataclass(frozen=True)
class Step:
    """`seqs` sequences of `new` rows each after `start` tokens, the first `shared` of which are the same."""

    name: str
    seqs: int
    start: int
    new: int = 1
    shared: int = 0

    def sequences(self) -> list[PlanSequence]:
        """The sequences with scattered pages."""
        rng = np.random.default_rng(0)
        count = -(-(self.start + self.new) // PAGE)
        common = rng.permutation(1 << 20)[: self.shared // PAGE]
        own = rng.permutation(1 << 22)[: self.seqs * count].reshape(self.seqs, count) + (1 << 20)
        own[:, : len(common)] = common
        return [PlanSequence(pages.astype(np.int32), self.start, self.new) for pages in own]


STEPS = [
    Step("decode", 1, 8191),
    Step("decode", 32, 8191),
    Step("decode, shared prefix", 32, 8191, shared=4096),
    Step("draft tokens", 32, 8187, new=5),
    Step("prefill", 1, 0, new=1024),
]


def median(call: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Plan every step by both builders, in turns; print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=300)
    options = parser.parse_args()
    target, about = report.heading(options)
    layout = PlanLayout.of(1024, 64, heads=32, kv_heads=8)
    arrays = StepArrays.around(layout, empty((layout.size(1 << 16),), "int32"), empty)
    kernel = compiled(build_plan(**dataclasses.asdict(layout), target=target), target)
    fast = PlanBuilder(layout, arrays, functools.partial(kernel, *map(tensor, arrays)))
    slow = PlanBuilder(layout, StepArrays.around(layout, np.zeros(layout.size(1 << 16), np.int32)))
    results = []
    print(f"{'step':24}{'sequences':>10}{'tokens':>8}{'rows':>6}{'compiled us':>13}{'NumPy us':>10}")
    for step in STEPS:
        sequences, division = step.sequences(), Division(options.threads)
        few = step.new * step.seqs <= 4
        builds = [functools.partial(b.build, sequences, rows_only=few, division=division) for b in (fast, slow)]
        times = [
            median(build, rounds) * 1e6
            for build, rounds in zip(builds, (options.rounds, options.rounds // 10), strict=True)
        ]
        results.append(dataclasses.asdict(step) | {"compiled_us": times[0], "numpy_us": times[1]})
        print(f"{step.name:24}{step.seqs:10}{step.start + step.new:8}{step.new:6}{times[0]:13.1f}{times[1]:10.1f}")
    report.write(options, about, results)


if __name__ == "__main__":
    main()
