"""Cohere's Command R and Aya: attention and MLP side by side on one LayerNorm without bias, neighbouring dimensions rotated.

Command R+ normalises q and k of each head. Command R7B and A (Cohere 2) have windows in three of four layers, and no positions in
the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_alternation, read_common
from .llama import IGNORED, TABLE, varied
from .qwen import QK_NORMS

_HEADS = {"q_norm": "num_heads", "k_norm": "num_kv_heads"}
COHERE_TABLE = varied(
    TABLE,
    *(dataclasses.replace(row, when="has_qk_norm", fold=_HEADS[row.axes[0]]) for row in QK_NORMS),
    without=("layers.{i}.mlp_norm.weight",),
)


def cohere_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Command R, R+, Aya."""
    reader = ConfigReader(raw)
    fields = _fields(reader, "CohereForCausalLM", theta=500000.0)
    return finish(reader, fields | {"qk_norm": "heads" if reader.boolean("use_qk_norm", False) else ""})


def cohere2_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Cohere 2. Its releases say of some choices that they are made as they always are."""
    reader = ConfigReader(raw)
    fields = _fields(reader, "Cohere2ForCausalLM")
    fields["windows"] = read_alternation(reader, fields["num_layers"], 4)
    fields["ropes"] = tuple(
        rope if window else None for rope, window in zip(fields["ropes"], fields["windows"], strict=True)
    )
    reader.fixed("rotary_pct", 1.0, 1)
    reader.fixed("position_embedding_type", "rope_gptj")
    reader.fixed("order_of_interleaved_layers", "local_attn_first")
    for key in ("use_embedding_sharing", "use_gated_activation", "use_parallel_block"):
        reader.fixed(key, True)
    reader.fixed("use_qk_norm", False)
    # The first repeats sliding_window_pattern, the second says on how many devices the table was.
    reader.seen.update(("layer_switch", "use_parallel_embedding"))
    return finish(reader, fields)


def _fields(reader: ConfigReader, architecture: str, **options: Any) -> dict[str, Any]:
    """What the two have in common; `attention_bias` is of q, k, v and o."""
    options |= {"tied": True, "eps": 1e-5, "eps_key": "layer_norm_eps"}
    fields = read_common(reader, architecture, context=8192, **options)
    bias = reader.boolean("attention_bias", False)
    return fields | {
        "qkv_bias": bias,
        "output_bias": bias,
        "norm": "layer",
        "norms": ("attn_norm",),
        "parallel": True,
        "rope_interleaved": True,
        "logit_scale": reader.number("logit_scale", 0.0625),
    }


register_decoder("CohereForCausalLM", "cohere", cohere_config, COHERE_TABLE, ignored=IGNORED)
register_decoder("Cohere2ForCausalLM", "cohere2", cohere2_config, COHERE_TABLE, ignored=IGNORED)
