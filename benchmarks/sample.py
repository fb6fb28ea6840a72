"""Choosing tokens: milliseconds of one call of the sampler, compiled and in NumPy, Python's part included.

python benchmarks/sample.py --threads 2
"""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np
import report
from limits import compiled, use_cores

from heddle.runtime.sampler import Draw, Sampler
from heddle.runtime.sampler.compiled import compiled_kernels
from heddle.runtime.sampling import SamplingParams
from heddle.runtime.tvm import empty
from heddle.schedules.catalog import edit_logits, mask_logits, rank_tokens, sample_tokens

HISTORY = 2048  # tokens of every sequence, half of them generated


@dataclasses.dataclass(frozen=True)
class Point:
    """One way to draw, for so many rows."""

    name: str
    rows: int
    params: SamplingParams

    def draws(self) -> list[Draw]:
        """A draw of every row, each with a history of its own."""
        rng = np.random.default_rng(1)
        histories = rng.integers(0, 30_000, (self.rows, HISTORY)).astype(np.int32)
        return [Draw(self.params, i, HISTORY, histories[i], HISTORY // 2) for i in range(self.rows)]


WAYS = {
    "greedy": SamplingParams(temperature=0),
    "temperature": SamplingParams(temperature=0.8),
    "top_k, top_p": SamplingParams(temperature=0.8, top_k=50, top_p=0.95),
    "top_p": SamplingParams(temperature=0.8, top_p=0.95),
    "min_p": SamplingParams(temperature=0.8, min_p=0.05),
    "typical_p": SamplingParams(temperature=0.8, typical_p=0.9),
    "penalties, top_k": SamplingParams(top_k=50, repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5),
    "top_k, logprobs": SamplingParams(temperature=0.8, top_k=50, logprobs=5),
}


def logits_of(rows: int, vocab: int, kind: str) -> np.ndarray:
    """Normal logits of deviation 2.5: `flat` as they are; `peaked` with 2000 likely tokens as a language model has them."""
    rng = np.random.default_rng(0)
    logits = empty((rows, vocab), "float32")
    logits[:] = rng.standard_normal((rows, vocab), dtype=np.float32) * 2.5
    if kind == "peaked":
        for row in logits:
            row[rng.choice(vocab, 2000, replace=False)] += 10 * rng.random(2000, dtype=np.float32) ** 4 + 5
    return logits


def median(call: Callable[[], object], rounds: int) -> float:
    """Median seconds of a call, after one that does not count."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Time every way with both samplers, and check that they choose the same tokens; print, and write JSON where asked."""
    parser = report.parser(__doc__, rounds=30)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    options = parser.parse_args()
    use_cores(options.threads)
    target, about = report.heading(options, vocabulary=str(options.vocab))
    factories = sample_tokens, rank_tokens, edit_logits, mask_logits
    fast = Sampler(compiled_kernels(*(compiled(f(vocab=options.vocab, target=target), target) for f in factories)))
    slow, results = Sampler(), []
    print(f"{'logits':8}{'way':20}{'rows':>6}{'compiled ms':>13}{'NumPy ms':>10}")
    for kind in ("flat", "peaked"):
        for name, params in WAYS.items():
            for point in (Point(name, rows, params) for rows in options.rows):
                logits, draws = logits_of(point.rows, options.vocab, kind), point.draws()
                if fast.sample(logits, draws).tolist() != slow.sample(logits, draws).tolist():
                    raise SystemExit(f"{point}: the compiled sampler chooses other tokens than NumPy")
                calls = [functools.partial(s.sample, logits, draws) for s in (fast, slow)]
                times = [median(call, n) * 1e3 for call, n in zip(calls, (options.rounds, 1), strict=True)]
                result = {"logits": kind, "way": name, "rows": point.rows}
                results.append(result | {"compiled_ms": times[0], "numpy_ms": times[1]})
                print(f"{kind:8}{name:20}{point.rows:6}{times[0]:13.3f}{times[1]:10.1f}", flush=True)
    report.write(options, about, results)


if __name__ == "__main__":
    main()
