"""OLMo 2 (OLMo team 2024): norms after attention and MLP instead of before, and over all of q and of k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common
from ..weights import Weight
from .llama import IGNORED, LAYER, TABLE, varied
from .qwen import QK_NORMS

OLMO2_TABLE = varied(
    TABLE,
    Weight("layers.{i}.attn_post_norm.weight", (LAYER + "post_attention_layernorm.weight",), ("hidden",), "vector"),
    Weight("layers.{i}.mlp_post_norm.weight", (LAYER + "post_feedforward_layernorm.weight",), ("hidden",), "vector"),
    *QK_NORMS,
    without=("layers.{i}.attn_norm.weight", "layers.{i}.mlp_norm.weight"),
)


def olmo2_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """`attention_bias` is of q, k, v and o."""
    reader = ConfigReader(raw)
    fields = read_common(reader, "Olmo2ForCausalLM", context=2048, eps=1e-5)
    bias = reader.boolean("attention_bias", False)
    fields |= {"qkv_bias": bias, "output_bias": bias, "qk_norm": "full", "norms": ("attn_post_norm", "mlp_post_norm")}
    return finish(reader, fields)


register_decoder("Olmo2ForCausalLM", "olmo2", olmo2_config, OLMO2_TABLE, ignored=IGNORED)
