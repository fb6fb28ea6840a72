"""Models in GGUF against the same matrices quantized here, and against llama.cpp on the same files, one after the other.

    python benchmarks/gguf.py CHECKPOINT FILE.gguf... --against w4a8 [--llama-cpp PYTHON] [--rounds 3]

CHECKPOINT is the model in floats that the files were made of (`benchmarks/peers/llama_cpp_worker.py` makes both). Every artifact
and every peer runs in a process of its own, in rounds; a decode step is the median of 88 after 512 tokens,
a prefill is of 512 tokens. PYTHON is an interpreter with llama-cpp-python.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PREFILL, STEPS, WARM = 512, 96, 8
Times = tuple[float, float]  # milliseconds of a decode step and of a prefill


def timed(prefill: Callable[[], Any], decode: Callable[[int], Any]) -> Times:
    """Both, the prefill after one that is not counted."""
    prefill()
    start = time.perf_counter()
    prefill()
    whole = time.perf_counter() - start
    steps = []
    for i in range(STEPS):
        start = time.perf_counter()
        decode(i)
        steps.append(time.perf_counter() - start)
    return 1e3 * statistics.median(steps[WARM:]), 1e3 * whole


def ours(artifact: str, threads: int) -> Times:
    """One sequence on an artifact."""
    import numpy as np

    from heddle.runtime.artifact import open_artifact
    from heddle.runtime.model import ModelRunner
    from heddle.runtime.plans import PAGE, PlanSequence

    runner = ModelRunner(open_artifact(artifact), kv_bytes=1 << 28, threads=threads)
    pages = np.arange(-(-(PREFILL + STEPS) // PAGE), dtype=np.int32)
    tokens = np.arange(1000, 1000 + PREFILL, dtype=np.int32)

    def step(start: int, rows: int) -> np.ndarray:
        sequence = PlanSequence(pages[: -(-(start + rows) // PAGE)], start, rows)
        return runner.forward([sequence], tokens[:rows], np.array([rows - 1], np.int32))

    return timed(lambda: step(0, PREFILL), lambda i: step(PREFILL + i, 1))


def llama_cpp(file: str, threads: int) -> Times:
    """The same tokens by llama.cpp."""
    import llama_cpp

    size = 2 * PREFILL
    model = llama_cpp.Llama(
        file, n_ctx=size, n_threads=threads, n_threads_batch=threads, n_batch=PREFILL, verbose=False
    )
    tokens = list(range(1000, 1000 + PREFILL))

    def prefill() -> None:
        model.reset()
        model.eval(tokens)

    return timed(prefill, lambda i: model.eval([1000 + i]))


def measure(python: str, kind: str, path: Path, threads: int) -> Times:
    """What a process of its own finds."""
    command = [python, __file__, "--worker", kind, str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    step, prefill = json.loads(done.stdout.splitlines()[-1])
    return step, prefill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--against", required=True, help="scheme of the model that is quantized here")
    parser.add_argument("--llama-cpp", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    from heddle.compiler.driver import compile_model

    with tempfile.TemporaryDirectory() as scratch:
        own = compile_model(options.checkpoint, Path(scratch) / "own.heddle", quant=options.against)
        jobs = [(options.against, sys.executable, "ours", own)]
        for file in options.files:
            jobs.append((file.stem, sys.executable, "ours", compile_model(file, Path(scratch) / f"{file.stem}.heddle")))
            if options.llama_cpp:
                jobs.append((f"{file.stem}, llama.cpp", options.llama_cpp, "llama_cpp", file))
        found: dict[str, list[Times]] = {job[0]: [] for job in jobs}
        for _ in range(options.rounds):
            for name, python, kind, path in jobs:
                found[name].append(measure(python, kind, path, options.threads))
    print(f"{'':32} {'decode ms':>10} {'to ' + options.against:>10} {'prefill ms':>10} {'to ' + options.against:>10}")
    for name, times in found.items():
        row = []
        for i in (0, 1):
            ratios = [t[i] / base[i] for t, base in zip(times, found[options.against], strict=True)]
            row += [statistics.median(t[i] for t in times), statistics.median(ratios)]
        print(f"{name:32} {row[0]:10.2f} {row[1]:10.2f} {row[2]:10.1f} {row[3]:10.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker = {"ours": ours, "llama_cpp": llama_cpp}[sys.argv[2]]
        print(json.dumps(worker(sys.argv[3], int(sys.argv[4]))))
    else:
        main()
