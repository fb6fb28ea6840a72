"""A whole model of a true shape, random weights: compile, load, decode and prefill as ratios to this machine's limits.

    python benchmarks/model.py --model qwen2.5-0.5b --threads 2 --json results.json

Limits are measured in the same run: the read rate over the weights themselves (their size, their pages), between the decode
rounds, and the rate of fused multiply-adds. Everything is a median over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_BIND_THREADS", "0")

COMMON = {"hidden_act": "silu", "initializer_range": 0.02, "torch_dtype": "float16", "use_cache": True}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": COMMON
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
    },
    "llama-3.2-1b": COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
    },
}
NOT_CODE = ("read", "weights")


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) << 10


def compile_child(source: str, output: str, dtype: str) -> None:
    """Compile in this process and print what it took, for `measure_compile`."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    from heddle.compiler.driver import compile_model

    imported = time.perf_counter() - start
    compile_model(source, output, dtype=dtype, random_weights=0)
    stop.set()
    watcher.join()
    print(json.dumps({"import": imported, "total": time.perf_counter() - start, "peak": max(peak)}))


def measure_compile(config: dict[str, Any], folder: Path, dtype: str) -> tuple[Path, dict[str, float]]:
    """The artifact, and seconds and peak anonymous memory of compiling it in a fresh process."""
    source, output = folder / "model", folder / "model.heddle"
    source.mkdir(exist_ok=True)
    (source / "config.json").write_text(json.dumps(config))
    command = [sys.executable, __file__, "--child", str(source), str(output), dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    from heddle.runtime.artifact import open_artifact

    manifest = open_artifact(output).manifest
    seconds = manifest.compile_seconds
    largest = max(4 * n for n in (config["vocab_size"] * config["hidden_size"],)) // (1 if dtype == "float32" else 2)
    return output, {
        "import_seconds": found["import"],
        "code_seconds": found["import"] + sum(s for name, s in seconds.items() if name not in NOT_CODE),
        "weights_seconds": seconds["weights"],
        "peak_anonymous_mb": found["peak"] / 1e6,
        "largest_tensor_mb": largest / 1e6,
    }


class Timed:
    """Adds up the seconds that calls of a compiled function take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0
        self.few_rows = getattr(function, "few_rows", 0)
        self.instances = getattr(function, "instances", [])

    def __call__(self, *args: Any) -> Any:
        start = time.perf_counter()
        result = self.function(*args)
        self.seconds += time.perf_counter() - start
        return result


def measure_run(artifact: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Decode and prefill through the engine, as ratios to the limits of the same minutes."""
    import numpy as np

    from benchmarks.limits import fma_rate, readers, use_cores
    from heddle.runtime.artifact import open_artifact
    from heddle.runtime.engine import Engine
    from heddle.runtime.model import ModelRunner
    from heddle.runtime.sampling import SamplingParams
    from heddle.schedules.target import resolve_target

    use_cores(threads)
    start = time.perf_counter()
    opened = open_artifact(artifact)
    group, model = opened.manifest.caches[0], opened.manifest.model
    runner = ModelRunner(opened, kv_bytes=4096 // group.page_tokens * group.record_bytes, threads=threads)
    load = time.perf_counter() - start
    timed = [Timed(f) for f in (runner._embed, runner._body, runner._head)]
    runner._embed, runner._body, runner._head = timed  # type: ignore[assignment]
    engine = Engine(runner, None, eos_token_ids=[], chunk=512, prefix_cache=False)
    rng = np.random.default_rng(0)
    target = resolve_target()
    reads = readers(runner.weights, target)
    decode: dict[int, list[float]] = {}
    rates: list[float] = []
    shares: list[float] = []
    for context in (128, 2048):
        prompt = rng.integers(0, model.vocab_size, context).tolist()
        params = SamplingParams(temperature=0.0, max_tokens=rounds * 8 + 16, ignore_eos=True)
        request = engine.add(engine.prepare(prompt, params))
        steps = engine.stats.decode.steps
        while engine.stats.decode.steps == steps:
            engine.step()
        for _ in range(4):
            engine.step()
        for _ in range(rounds):
            before, start = sum(t.seconds for t in timed), time.perf_counter()
            for _ in range(8):
                engine.step()
            spent = time.perf_counter() - start
            decode.setdefault(context, []).append(spent / 8)
            if context == 128:
                shares.append(1 - (sum(t.seconds for t in timed) - before) / spent)
                rates.append(max(_rate(read, runner.weights.nbytes) for read in reads))
        engine.abort(request)
        engine.step() if engine.has_work else None
    prefill, fmas = [], []
    prompt = rng.integers(0, model.vocab_size, 512).tolist()
    for _ in range(max(3, rounds // 2)):
        request = engine.add(engine.prepare(prompt, SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)))
        start = time.perf_counter()
        while engine.has_work:
            engine.step()
        prefill.append(time.perf_counter() - start)
        fmas.append(fma_rate(target, threads, rounds=3))
    weights = opened.manifest.memory.weights_bytes
    # Every stored weight is read once a token: the tied table by the head, the embedding's single row aside.
    flops = 2 * 512 * (_matrix_elements(opened.manifest) - model.vocab_size * model.hidden_size)
    rate = statistics.median(rates)
    step = statistics.median(decode[128])
    fma = statistics.median(fmas)
    spent = statistics.median(prefill)
    return {
        "load_seconds": load,
        "load": str(runner.load_report),
        "read_gb_s": rate / 1e9,
        "decode_tokens_s": {str(c): 1 / statistics.median(t) for c, t in decode.items()},
        "decode_gb_s": weights / step / 1e9,
        "decode_ratio": weights / step / rate,
        "python_share": statistics.median(shares),
        "fma_gflops": fma,
        "prefill_tokens_s": 512 / spent,
        "prefill_gflops": flops / spent / 1e9,
        "prefill_ratio": flops / spent / 1e9 / fma,
    }


def _rate(read: Callable[[], None], size: int) -> float:
    start = time.perf_counter()
    read()
    return size / (time.perf_counter() - start)


def _matrix_elements(manifest: Any) -> int:
    sizes = [t.shape for t in manifest.weights[0].tensors.values()]
    return sum(a * b * c for a, b, c in (s for s in sizes if len(s) == 3))


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        compile_child(*sys.argv[2:5])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="qwen2.5-0.5b")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for the artifact (default: a temporary one)")
    args = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = str(args.threads)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks.report import describe

    with tempfile.TemporaryDirectory(dir=args.keep) as scratch:
        artifact, compiled = measure_compile(MODELS[args.model], args.keep or Path(scratch), args.dtype)
        found = compiled | measure_run(artifact, args.threads, args.rounds)
    result = {"model": args.model, "dtype": args.dtype, "threads": args.threads, **found, **describe()}
    width = max(len(name) for name in result)
    for name, value in result.items():
        print(f"{name:{width}}  {value:.3f}" if isinstance(value, float) else f"{name:{width}}  {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
