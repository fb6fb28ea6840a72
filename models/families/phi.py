"""Phi 1, 1.5 and 2 (Gunasekar et al. 2023): one norm for attention and MLP side by side, LayerNorm and biases everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common
from ..weights import Weight
from .llama import IGNORED, LAYER, TABLE, norm_biases, varied

_PLAIN = varied(
    TABLE,
    Weight("layers.{i}.attn.o.weight", (LAYER + "self_attn.dense.weight",), ("hidden", "heads"), "linear"),
    Weight("layers.{i}.attn.o.bias", (LAYER + "self_attn.dense.bias",), ("hidden",), "vector"),
    Weight("layers.{i}.mlp.up.weight", (LAYER + "mlp.fc1.weight",), ("ffn", "hidden"), "linear"),
    Weight("layers.{i}.mlp.up.bias", (LAYER + "mlp.fc1.bias",), ("ffn",), "vector"),
    Weight("layers.{i}.mlp.down.weight", (LAYER + "mlp.fc2.weight",), ("hidden", "ffn"), "linear"),
    Weight("layers.{i}.mlp.down.bias", (LAYER + "mlp.fc2.bias",), ("hidden",), "vector"),
    Weight("norm.weight", ("model.final_layernorm.weight",), ("hidden",), "vector"),
    Weight("lm_head.bias", ("lm_head.bias",), ("vocab",), "vector"),
    without=("layers.{i}.mlp.gate.weight", "layers.{i}.mlp.gate.bias", "layers.{i}.mlp_norm.weight"),
)

PHI_TABLE = (*_PLAIN, *norm_biases(_PLAIN))


def phi_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Half of each head is rotated unless given; the head has a bias, so it has a weight of its own too."""
    reader = ConfigReader(raw)
    fields = read_common(
        reader,
        "PhiForCausalLM",
        context=2048,
        eps=1e-5,
        eps_key="layer_norm_eps",
        activation="gelu_new",
        partial_rotary=0.5,
    )
    if fields["tie_embeddings"]:
        why = "the head of this family has a bias, and a table of embeddings has none"
        reader.bad("tie_word_embeddings", 'config key "tie_word_embeddings" is true', why)
    fields |= {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "head_bias": True, "gated": False}
    fields |= {"norm": "layer", "norm_bias": True, "norms": ("attn_norm",), "parallel": True}
    return finish(reader, fields)


register_decoder("PhiForCausalLM", "phi", phi_config, PHI_TABLE, ignored=IGNORED)
