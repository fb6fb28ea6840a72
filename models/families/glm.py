"""GLM-4 (GLM team 2024, 2025): neighbouring dimensions of half a head rotated, gate and up stored together; 0414 has more norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import PRE_NORM, DecoderConfig, finish, read_common
from ..weights import Weight, fused
from .llama import GATE_UP_WEIGHTS, IGNORED, LAYER, TABLE, varied

GLM_TABLE = varied(
    TABLE,
    *fused(GATE_UP_WEIGHTS, LAYER + "mlp.gate_up_proj.weight", ("ffn", "ffn"), "linear", columns=("hidden",)),
)

GLM4_TABLE = varied(
    GLM_TABLE,
    Weight("layers.{i}.attn_post_norm.weight", (LAYER + "post_self_attn_layernorm.weight",), ("hidden",), "vector"),
    Weight("layers.{i}.mlp_post_norm.weight", (LAYER + "post_mlp_layernorm.weight",), ("hidden",), "vector"),
)


def glm_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """GLM-4 9B of 2024, in Hugging Face's own format."""
    reader = ConfigReader(raw)
    return finish(reader, _fields(reader, "GlmForCausalLM"))


def glm4_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """GLM-4 0414: norms before and after attention and MLP."""
    reader = ConfigReader(raw)
    return finish(
        reader, _fields(reader, "Glm4ForCausalLM") | {"norms": (*PRE_NORM, "attn_post_norm", "mlp_post_norm")}
    )


def _fields(reader: ConfigReader, architecture: str) -> dict[str, Any]:
    """What the two have in common; `attention_bias` is of q, k and v."""
    fields = read_common(
        reader, architecture, context=131072, kv_heads=2, head_dim=128, eps=1.5625e-7, partial_rotary=0.5
    )
    return fields | {"qkv_bias": reader.boolean("attention_bias", True), "rope_interleaved": True}


register_decoder("GlmForCausalLM", "glm", glm_config, GLM_TABLE, ignored=IGNORED)
register_decoder("Glm4ForCausalLM", "glm4", glm4_config, GLM4_TABLE, ignored=IGNORED)
