"""Phi-3, 3.5 and 4 (Abdin et al. 2024): Llama with fused projections, and longrope for long contexts.

Phi-4-mini rotates three quarters of each head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common, read_window
from ..weights import fused
from .llama import ATTENTION_WEIGHTS, GATE_UP_WEIGHTS, IGNORED, LAYER, TABLE, varied

PHI3_TABLE = varied(
    TABLE,
    *fused(
        ATTENTION_WEIGHTS,
        LAYER + "self_attn.qkv_proj.weight",
        ("heads", "kv_heads", "kv_heads"),
        "linear",
        columns=("hidden",),
    ),
    *fused(GATE_UP_WEIGHTS, LAYER + "mlp.gate_up_proj.weight", ("ffn", "ffn"), "linear", columns=("hidden",)),
)


def phi3_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """As many key heads as heads, no window, and 4096 tokens of pretraining unless given."""
    reader = ConfigReader(_with_longrope(raw))
    fields = read_common(reader, "Phi3ForCausalLM", context=4096, eps=1e-5, partial_rotary=1.0)
    window = read_window(reader, None)
    fields["windows"] = (window if window < fields["context_length"] else 0,) * fields["num_layers"]
    for key in ("full_attn_mod", "interpolate_factor"):  # of other Phi models
        reader.fixed(key, 1)
    reader.fixed("lm_head_bias", False)
    return finish(reader, fields)


def _with_longrope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the present name of longrope: older releases call it `su` or `yarn`, as transformers knows."""
    raw = dict(raw)
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(rope := raw.get(key), Mapping):
            old = {name: "longrope" for name in ("rope_type", "type") if rope.get(name) in ("su", "yarn")}
            raw[key] = {**rope, **old}
            if "original_max_position_embeddings" not in rope:
                raw.setdefault("original_max_position_embeddings", 4096)
    return raw


register_decoder("Phi3ForCausalLM", "phi3", phi3_config, PHI3_TABLE, ignored=IGNORED)
