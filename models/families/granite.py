"""Granite 3 (IBM 2024): Llama with scaled embeddings, scores, residuals and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common
from .llama import IGNORED, TABLE


def granite_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """All four factors are 1 unless given; `logits_scaling` divides. `attention_bias` is of q, k, v and o."""
    reader = ConfigReader(raw)
    fields = read_common(reader, "GraniteForCausalLM", context=2048)
    bias = reader.boolean("attention_bias", False)
    fields |= {"qkv_bias": bias, "output_bias": bias, "mlp_bias": reader.boolean("mlp_bias", False)}
    fields |= {
        "embed_scale": reader.number("embedding_multiplier", 1.0),
        "attention_scale": reader.number("attention_multiplier", 1.0),
        "residual_scale": reader.number("residual_multiplier", 1.0),
        "logit_scale": 1 / reader.number("logits_scaling", 1.0),
    }
    return finish(reader, fields)


register_decoder("GraniteForCausalLM", "granite", granite_config, TABLE, ignored=IGNORED)
