"""Embeddings of ragged texts against transformers with padding, in turns, on the same random weights, results compared.

    python benchmarks/encoder.py --threads 2

64 texts of 4 to 256 tokens, most of them short. transformers runs in a process of its own with as many threads: all texts as one
padded batch, and sorted by length in batches of 16.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np
import report
from limits import seconds, use_cores
from peer import Peer

from heddle import LLM
from heddle.models import RandomCheckpoint, architecture
from heddle.runtime.features import physical_cores
from heddle.runtime.safetensors import write

BERT: dict[str, Any] = {"architectures": ["BertModel"], "model_type": "bert", "vocab_size": 30522, "hidden_act": "gelu"}
BERT |= {"max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0}
MODELS: dict[str, dict[str, Any]] = {
    "minilm-l6": BERT
    | {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": BERT
    | {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "modernbert-base": {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "max_position_embeddings": 8192,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
        "pad_token_id": 0,
    },
}
PEERS = ("encoder_padded", "encoder_by_length")


@dataclasses.dataclass(frozen=True)
class Result:
    """Medians of one model: texts a second here and by the peers, and the medians of the ratios of paired rounds."""

    model: str
    quant: str
    texts: float
    padded: float
    by_length: float
    speed: float
    speed_by_length: float
    difference: float


def make_checkpoint(config: dict[str, Any], folder: Path) -> Path:
    """A checkpoint of this shape in float32, as every system reads it."""
    family = architecture(config)
    checkpoint = RandomCheckpoint(family.weights(family.config(config)), 0, "float32")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    specs = [(name, info.dtype, info.shape) for name, info in checkpoint.tensors.items()]
    write(folder / "model.safetensors", specs, checkpoint.read)
    return folder


def ragged(count: int, vocab: int) -> list[np.ndarray]:
    """Texts whose lengths are log-normal around 40 tokens."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(40), 0.8, count).astype(int), 4, 256)
    return [rng.integers(5, vocab, n).astype(np.int32) for n in lengths]


def measure(model: str, quant: str, folder: Path, peer: Peer, threads: int, rounds: int) -> Result:
    """Rounds of ours and the peers' in turns."""
    config = MODELS[model]
    checkpoint = folder / model if (folder / model).exists() else make_checkpoint(config, folder / model)
    texts = ragged(64, config["vocab_size"])
    llm = LLM(checkpoint, None if quant == "none" else quant, threads)
    ours = llm.embed(texts)
    inputs = {"folder": np.array(str(checkpoint)), "tokens": np.concatenate(texts)}
    inputs["lengths"] = np.array([len(text) for text in texts])
    theirs = {name: peer.prepare(name, inputs) for name in PEERS}
    for found in theirs.values():
        assert isinstance(found, np.ndarray), found
    difference = float(np.abs(ours - theirs[PEERS[0]]).max())  # type: ignore[operator]
    times = [(seconds(lambda: llm.embed(texts), 1), *(peer.seconds(name, 1) for name in PEERS)) for _ in range(rounds)]
    mine, padded, by_length = (len(texts) / statistics.median(t) for t in zip(*times, strict=True))
    ratios = [statistics.median(t[i] / t[0] for t in times) for i in (1, 2)]
    return Result(model, quant, mine, padded, by_length, ratios[0], ratios[1], difference)


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=7)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--quant", nargs="+", default=["none"], help="schemes to measure as well, such as w8a8")
    options = parser.parse_args()
    with Peer(options.threads, physical_cores()) as peer, tempfile.TemporaryDirectory() as folder:
        use_cores(options.threads)
        _, about = report.heading(options)
        print(
            f"{'model':16} {'quant':8} {'texts/s':>8} {'padded':>8} {'by length':>10} {'speed':>15}  largest difference"
        )
        results = []
        for model in options.models:
            for quant in options.quant:
                r = measure(model, quant, Path(folder), peer, options.threads, options.rounds)
                results.append(r)
                print(
                    f"{r.model:16} {r.quant:8} {r.texts:8.1f} {r.padded:8.1f} {r.by_length:10.1f}"
                    f" {r.speed:7.2f}x{r.speed_by_length:6.2f}x  {r.difference:.1e}",
                    flush=True,
                )
    report.write(options, about, results)


if __name__ == "__main__":
    main()
