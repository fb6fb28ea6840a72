"""A small random model with biases and a tied table, quantized; and the same model with the decoded weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from heddle.compiler.driver import compile_model, read_source
from heddle.compiler.quant import choose_schemes, dequantize, model_sites, quantize
from heddle.runtime import safetensors
from heddle.schedules.target import TargetProfile
from tests.model_tools import save_random

VOCABULARY, HIDDEN, FFN = 100, 64, 96


def save_small(path: Path, *, hidden: int = HIDDEN, ffn: int = FFN, layers: int = 2, tied: bool = True) -> Path:
    """Qwen2 of 100 tokens in float32."""
    from transformers import Qwen2Config

    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
    )
    save_random(path, config)
    return path


def compile_small(source: Path, output: Path | None, quant: Any, target: TargetProfile | str = "native") -> Path:
    """The artifact of a small model; steps of 64 tokens, 8 sequences."""
    name = target if isinstance(target, str) else target.name
    return compile_model(source, output, quant=quant, target=name, max_tokens=64, max_seqs=8)


def save_decoded(source: Path, output: Path, quant: Any) -> Path:
    """The model at `source` with its matrices encoded and decoded; a table that is quantized twice becomes two."""
    model = read_source(source)
    sites = model_sites(model.specs)
    chosen = choose_schemes(quant, sites)
    found: dict[str, np.ndarray] = {}
    for param in model.specs:
        name = model.match.names[param]
        found[name] = model.checkpoint.read(name).astype(np.float32)
    table = found[model.match.names[sites["embed"]]]
    apart = sites["embed"] == sites["lm_head"]  # tied, and written apart
    names = {site: model.match.names[param] for site, param in sites.items()}
    if apart:
        names["lm_head"] = "lm_head.weight"
        found["lm_head.weight"] = table
    for site, scheme in chosen.items():
        w = found[names[site]]
        found[names[site]] = dequantize(quantize(w, scheme.weight), scheme.weight, len(w))
    output.mkdir()
    config = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": False}
    (output / "config.json").write_text(json.dumps(config))
    specs = [(name, "float32", array.shape) for name, array in found.items()]
    safetensors.write(output / "model.safetensors", specs, found.__getitem__)
    return output


def ragged() -> list[np.ndarray]:
    """Sequences of many lengths, some of one token."""
    rng = np.random.default_rng(5)
    return [rng.integers(0, VOCABULARY, n).astype(np.int32) for n in (75, 3, 30, 1, 17)]


def copy_of(source: Path, folder: Path) -> Path:
    """A copy of a checkpoint, to damage."""
    return Path(shutil.copytree(source, folder / "model"))
