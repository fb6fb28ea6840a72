"""What each quantization scheme costs in perplexity, and whether it costs what a simulation in torch says.

    python benchmarks/quality.py --text heldout.txt

Every scheme and group size is compiled, linears and activations quantized, and scores the text; embedding and head have 8 or
4 bits with activations as wide as the linears'. The simulation (`peers/simulate.py`, in a process of its own) runs the
decoded weights of the same encoding in transformers and rounds activations by their definition. `differs` is Heddle's
perplexity over the simulation's. With 8-bit activations it is noise, of a standard error of about 0.02 % here: where float32
rounds an activation to the neighbouring code, all that follows in the window changes a little.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np
import report
from peer import Peer

from heddle.compiler.driver import read_source
from heddle.compiler.quant import choose_schemes, dequantize, model_sites, quantize
from heddle.evaluate import Perplexity, load, perplexity
from heddle.runtime import safetensors
from heddle.runtime.features import physical_cores
from heddle.schedules.layouts.scheme import Scheme, scheme

EXAMPLE = Path(__file__).parent.parent / "examples" / "tinydoc"
HEADS = {"8": ("w8a16", "w8a8"), "4": ("w4a16", "w4a8")}
"""Schemes of embedding and head by their bits, for linears with 16-bit and with 8-bit activations."""


@dataclasses.dataclass(frozen=True)
class Result:
    """Perplexity of one scheme; changes are in percent, bits are those of a weight of its linears."""

    scheme: str
    head: str
    linear_bits: float
    perplexity: float
    over_f32: float
    simulated: float
    differs: float


def all_schemes() -> Iterator[str]:
    """Every name that `scheme` knows: all formats of weights, each with all of activations."""
    sizes, kinds = ("g32", "g64", "g128", "pc"), ("", "-asym", "-min", "-2l", "-2l-asym")
    for bits, size, kind, activation in itertools.product("84", sizes, kinds, ("a16", "a16-f32", "a8", "a8-ag")):
        width, dash, suffix = activation.partition("-")
        with contextlib.suppress(ValueError):
            yield scheme(f"w{bits}{width}-{size}{kind}{dash}{suffix}").name


def sites_of(name: str, head: str) -> dict[str, str]:
    """What `quant` is for a scheme of the linears, and `head` bits of embedding and head."""
    other = HEADS[head][scheme(name).activation.startswith("int8")]
    return {"*": name, "embed": other, "lm_head": other}


def write_decoded(source: Path, output: Path, quant: dict[str, str] | None) -> float:
    """The model at `source` in float32, its matrices encoded and decoded; gives the bits per weight of its linears."""
    model = read_source(source)
    output.mkdir()
    for file in source.glob("*.json"):
        if not file.name.endswith(".index.json"):
            shutil.copy(file, output)
    sites = model_sites(model.specs)
    formats = {sites[site]: found.weight for site, found in choose_schemes(quant, sites).items()}
    bits = weights = 0.0

    def values(param: str) -> np.ndarray:
        nonlocal bits, weights
        w, fmt = model.checkpoint.read(model.match.names[param]).astype(np.float32), formats.get(param)
        if model.specs[param].kind == "linear" and param != sites["lm_head"]:
            bits, weights = bits + (fmt.bits_per_weight(w.shape[1]) if fmt else 32.0) * w.size, weights + w.size
        return w if fmt is None else dequantize(quantize(w, fmt, name=param), fmt, len(w))

    params = {name: param for param, name in model.match.names.items()}
    tensors = [(name, "float32", model.specs[param].shape) for name, param in params.items()]
    safetensors.write(output / "model.safetensors", tensors, lambda name: values(params[name]))
    config = json.loads((output / "config.json").read_text())
    (output / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32", "dtype": "float32"}))
    return bits / weights


def compiled(options: argparse.Namespace, quant: dict[str, str] | None) -> Perplexity:
    """What the compiled model makes of the text. Keys and values stay float32: this is about weights and activations."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HEDDLE_CACHE"] = cache
        llm = load(options.model, window=options.window, quant=quant, kv_dtype="float32", threads=options.threads)
        text = options.text.read_text(encoding="utf-8")
        return perplexity(llm, text, window=options.window, stride=options.window, max_tokens=options.tokens)


def simulated(peer: Peer, model: Path, scored: Perplexity, linears: Scheme | None, head: Scheme | None) -> float:
    """Perplexity of the same tokens in the same windows by torch, with the weights at `model`."""
    windows = [(scored.text.tokens(window), window.end - window.first) for window in scored.windows.windows]
    arrays = {
        "model": np.array(str(model)),
        "tokens": np.concatenate([tokens for tokens, _ in windows]),
        "lengths": np.array([len(tokens) for tokens, _ in windows]),
        "scored": np.array([count for _, count in windows]),
    }
    for name, found in (("linears", linears), ("head", head)):
        coding = [found.activation, found.weight.group] if found else ["f32", None]
        arrays[name] = np.array(json.dumps(coding))
    losses = peer.prepare("decoder_torch", arrays)
    if isinstance(losses, str):
        raise SystemExit(f"torch and transformers are needed for the simulation: {losses}")
    return float(np.exp(losses.mean()))


def measure(options: argparse.Namespace, peer: Peer, name: str | None, head: str, base: float) -> Result:
    """One line of the table. `name` None is float32, whose perplexity is the `base` of the others."""
    quant = sites_of(name, head) if name else None
    found = compiled(options, quant)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        bits = write_decoded(options.model, model, quant)
        schemes = (scheme(quant["*"]), scheme(quant["lm_head"])) if quant else (None, None)
        other = simulated(peer, model, found, *schemes)
    over = 100 * (found.perplexity / base - 1) if name else 0.0
    return Result(name or "f32", head, bits, found.perplexity, over, other, 100 * (found.perplexity / other - 1))


def main() -> None:
    """Measure float32 first, then each scheme with each head."""
    parser = report.parser(__doc__, rounds=None)
    parser.add_argument("--model", type=Path, default=EXAMPLE, help="a Hugging Face model directory")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=30_000, help="tokens of the text to read")
    parser.add_argument("--window", type=int, default=512, help="tokens of a window; windows do not overlap")
    parser.add_argument("--schemes", nargs="*", default=list(all_schemes()))
    parser.add_argument(
        "--heads", nargs="*", default=list(HEADS), choices=list(HEADS), help="bits of embedding and head"
    )
    options = parser.parse_args()
    _, about = report.heading(options, text=options.text.name, tokens=str(options.tokens))
    print(f"\n{'scheme':18}{'head':>5}{'bits':>8}{'perplexity':>12}{'over f32':>10}{'simulated':>12}{'differs':>10}")
    results: list[Result] = []
    with Peer(options.threads, physical_cores()) as peer:
        for name, head in [(None, "32"), *itertools.product(options.schemes, options.heads)]:
            r = measure(options, peer, name, head, results[0].perplexity if results else 0.0)
            results.append(r)
            row = f"{r.scheme:18}{r.head:>5}{r.linear_bits:>8.3f}{r.perplexity:>12.4f}{r.over_f32:>+9.3f}%"
            print(f"{row}{r.simulated:>12.4f}{r.differs:>+9.4f}%", flush=True)
    report.write(options, about, results)


if __name__ == "__main__":
    main()
