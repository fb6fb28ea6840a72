"""What each quantization scheme costs in perplexity: weights encoded, decoded to float32, and compiled as they then are.

    python benchmarks/quality.py --text heldout.txt

Only the weights are quantized: activations stay float32, which is what 16-bit activations (`w4a16`, `w8a16`) compute to
within 1e-4; 8-bit activations need the quantized kernels and are not in this table. Where embedding and head are tied, they
share the head's scheme.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np
import report

from heddle.compiler.driver import read_source
from heddle.compiler.quant import dequantize, quantize
from heddle.evaluate import load, perplexity
from heddle.runtime import safetensors
from heddle.schedules.layouts.scheme import WeightFormat, scheme

EXAMPLE = Path(__file__).parent.parent / "examples" / "tinydoc"
SCHEMES = ["w8a16", "w8a16-g128", "w8a16-g32"] + [
    f"w4a16-{size}{kind}"
    for size in ("g32", "g64", "g128", "pc")
    for kind in ("", "-asym", "-2l", "-2l-asym")
    if size != "pc" or "2l" not in kind
]
HEADS = {"w8": scheme("w8a16").weight, "w4": scheme("w4a16").weight}


@dataclasses.dataclass(frozen=True)
class Result:
    """Perplexity of one choice of formats, and bits per weight of its linears and its head."""

    scheme: str
    head: str
    perplexity: float
    increase: float  # over float32 weights, in percent
    linear_bits: float
    seconds: float  # of encoding and decoding


def fake_quantized(source: Path, output: Path, linear: WeightFormat | None, head: WeightFormat | None) -> float:
    """A copy of the model at `source` in float32 with quantized values; gives the bits per weight of its linears."""
    model = read_source(source)
    output.mkdir()
    for file in source.glob("*.json"):
        if not file.name.endswith(".index.json"):
            shutil.copy(file, output)
    bits = weights = 0.0

    def values(param: str) -> np.ndarray:
        nonlocal bits, weights
        w = model.checkpoint.read(model.match.names[param]).astype(np.float32)
        fmt = head if model.specs[param].kind == "embedding" or param.startswith("lm_head") else linear
        if fmt is None or w.ndim != 2:
            return w
        if fmt is linear:
            bits, weights = bits + fmt.bits_per_weight(w.shape[1]) * w.size, weights + w.size
        return dequantize(quantize(w, fmt, name=param), fmt, len(w))

    params = {model.match.names[param]: param for param in model.match.names}
    specs = [(name, "float32", model.specs[param].shape) for name, param in params.items()]
    safetensors.write(output / "model.safetensors", specs, lambda name: values(params[name]))
    config = json.loads((output / "config.json").read_text())
    (output / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32", "dtype": "float32"}))
    return bits / weights if weights else 32.0


def measure(options: argparse.Namespace, name: str, head: str) -> Result:
    """One line of the table; `increase` is filled in by the caller."""
    linear = None if name == "f32" else scheme(name).weight
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        model = Path(folder) / "model"
        bits = fake_quantized(options.model, model, linear, HEADS.get(head))
        seconds = time.perf_counter() - start
        os.environ["HEDDLE_CACHE"] = str(Path(folder) / "cache")
        llm = load(model, window=options.window, kv_dtype="float32", threads=options.threads)
        text = options.text.read_text(encoding="utf-8")
        found = perplexity(llm, text, window=options.window, stride=options.window, max_tokens=options.tokens)
    return Result(name, head, found.perplexity, 0.0, bits, seconds)


def main() -> None:
    """Measure float32 first, then each scheme with each head."""
    parser = report.parser(__doc__, rounds=None)
    parser.add_argument("--model", type=Path, default=EXAMPLE, help="a Hugging Face model directory")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=30_000, help="tokens of the text to read")
    parser.add_argument("--window", type=int, default=512, help="tokens of a window; windows do not overlap")
    parser.add_argument("--schemes", nargs="*", default=SCHEMES)
    parser.add_argument("--heads", nargs="*", default=["w8", "w4"], choices=[*HEADS, "f32"])
    options = parser.parse_args()
    _, about = report.heading(options, text=options.text.name, tokens=str(options.tokens))
    base = measure(options, "f32", "f32")
    results = [base]
    print(f"\n{'scheme (weights only)':24}{'head':>5}{'bits':>8}{'perplexity':>12}{'over f32':>10}")
    print(f"{'f32':24}{'f32':>5}{32:>8}{base.perplexity:>12.4f}")
    for name in options.schemes:
        for head in options.heads:
            found = measure(options, name, head)
            found = dataclasses.replace(found, increase=100 * (found.perplexity / base.perplexity - 1))
            results.append(found)
            print(
                f"{name:24}{head:>5}{found.linear_bits:>8.3f}{found.perplexity:>12.4f}{found.increase:>+9.3f}%",
                flush=True,
            )
    report.write(options, about, results)


if __name__ == "__main__":
    main()
