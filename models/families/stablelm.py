"""StableLM 3B, 2 and Zephyr (Stability AI 2023, 2024): Llama with LayerNorm, a quarter of each head rotated.

StableLM 2 12B has norms of q and k with a tensor for each head, and attention and MLP side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import PRE_NORM, DecoderConfig, finish, read_common
from ..weights import Weight
from .llama import IGNORED, LAYER, TABLE, norm_biases


def _head_norms(name: str, heads: str) -> Weight:
    source = (f"{LAYER}self_attn.{name}_layernorm.norms.{{piece}}.weight",)
    return Weight(
        f"layers.{{i}}.attn.{name}_norm.weight", source, (f"{name}_norm",), "vector", "has_qk_norm", pieces=heads
    )


_MLP_NORM = "layers.{i}.mlp_norm."
STABLELM_TABLE = (
    *(
        dataclasses.replace(row, when="has_mlp_norm") if row.param.startswith(_MLP_NORM) else row
        for row in (*TABLE, *norm_biases(TABLE))
    ),
    _head_norms("q", "num_heads"),
    _head_norms("k", "num_kv_heads"),
)


def stablelm_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """32 key heads and norms one after the other unless given; side by side they share the first norm."""
    reader = ConfigReader(raw)
    fields = read_common(
        reader,
        "StableLmForCausalLM",
        context=4096,
        kv_heads=32,
        eps=1e-5,
        eps_key="layer_norm_eps",
        partial_rotary=0.25,
    )
    parallel = reader.boolean("use_parallel_residual", False)
    return finish(
        reader,
        fields
        | {
            "qkv_bias": reader.boolean("use_qkv_bias", False),
            "qk_norm": "heads" if reader.boolean("qk_layernorm", False) else "",
            "norm": "layer",
            "norm_bias": True,
            "norms": ("attn_norm",) if parallel else PRE_NORM,
            "parallel": parallel,
        },
    )


register_decoder("StableLmForCausalLM", "stablelm", stablelm_config, STABLELM_TABLE, ignored=IGNORED)
