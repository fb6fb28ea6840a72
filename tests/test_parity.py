"""Logits against transformers: random weights in float32, ragged prefill, then steps that mix chunks and single tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heddle.compiler.driver import compile_model
from tests.model_tools import Sequences, reference_logits, relative_error, runner_of, save_random

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 16}),
    "llama3-gqa7": (
        "llama",
        {"hidden_size": 112, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 64, "rope": LLAMA3},
    ),
    "llama-linear-tied": (
        "llama",
        {
            "hidden_size": 80,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 80,
            "tie_word_embeddings": True,
            "rope": {"rope_type": "linear", "factor": 2.5},
        },
    ),
    "llama-dynamic": (
        "llama",
        {
            "hidden_size": 72,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "rope": {"rope_type": "dynamic", "factor": 2.0},
        },
    ),
    "llama-yarn": (
        "llama",
        {
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "attention_bias": True,
            "mlp_bias": True,
            "rope": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        },
    ),
    "mistral-window": (
        "mistral",
        {"hidden_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 24, "sliding_window": 37},
    ),
    "qwen2": (
        "qwen2",
        {"hidden_size": 112, "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
}
SIZES = {"num_hidden_layers": 2, "intermediate_size": 172, "vocab_size": 331, "max_position_embeddings": 256}


def config_of(family: str, options: dict[str, Any]) -> Any:
    from transformers import LlamaConfig, MistralConfig, Qwen2Config

    kinds = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
    options = dict(options)
    rope = {"rope_type": "default", "rope_theta": 10000.0} | options.pop("rope", {})
    return kinds[family](**(SIZES | options), rope_parameters=rope)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_agree_with_transformers(name: str, tmp_path: Path) -> None:
    family, options = CONFIGS[name]
    save_random(tmp_path / "model", config_of(family, options))
    artifact = compile_model(tmp_path / "model", tmp_path / "model.heddle", max_tokens=256, max_seqs=8)
    rng = np.random.default_rng(1)
    lengths = (150, 1, 67, 33)
    tokens = [rng.integers(0, SIZES["vocab_size"], n).astype(np.int32) for n in lengths]
    sequences = Sequences(runner_of(artifact, tokens=1024), tokens)
    sequences.step({0: 90, 2: 40, 3: 1})  # ragged prefill
    sequences.step({0: 1, 1: 1, 2: 20, 3: 1})  # single tokens and a chunk
    sequences.step({3: 5, 0: 1})
    logits = sequences.finish(chunk=13)
    for actual, expected in zip(logits, reference_logits(tmp_path / "model", tokens), strict=True):
        assert relative_error(actual, expected) < 1e-4
