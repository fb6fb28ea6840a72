"""MiniCPM 1, 2 and 4 (Hu et al. 2024): Llama with scaled embeddings, residuals and logits, so that widths share hyperparameters.

transformers has no implementation; the definitions are those of the models' own code. Sparse attention (InfLLM), which MiniCPM 4
can be run with, is not: its models compute full attention unless asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common
from .llama import IGNORED, TABLE


def minicpm_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Embeddings times `scale_emb`, residuals times `scale_depth` / sqrt(layers), logits times `dim_model_base` / hidden_size."""
    reader = ConfigReader(raw)
    fields = read_common(reader, "MiniCPMForCausalLM", context=2048, tied=True)
    bias = reader.boolean("attention_bias", False)
    reader.seen.add("mup_denominator")  # of draft models and of training
    reader.fixed("sparse_config")
    return finish(
        reader,
        fields
        | {
            "qkv_bias": bias,
            "output_bias": bias,
            "embed_scale": reader.number("scale_emb", 1),
            "residual_scale": reader.number("scale_depth", 1) / math.sqrt(fields["num_layers"]),
            "logit_scale": reader.number("dim_model_base", 1) / fields["hidden_size"],
        },
    )


register_decoder("MiniCPMForCausalLM", "minicpm", minicpm_config, TABLE, ignored=IGNORED)
