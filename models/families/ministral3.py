"""Ministral 3 (Mistral AI 2025), whose queries grow with their position; and models with a vision tower around a Mistral.

Of Mistral Small 3.1 and Ministral 3 with a vision tower the language model is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common, read_window
from ..multimodal import IGNORED_TOWERS, language_config, language_table
from .llama import IGNORED, TABLE
from .mistral import mistral_config

ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""Rope parameters where the config has none."""

_OWN = ("llama_4_scaling_beta", "max_position_embeddings")


def ministral3_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """How fast queries grow, `llama_4_scaling_beta`, and in which steps, stands among the rope parameters."""
    rope = raw.get("rope_parameters") or ROPE
    own = ConfigReader(rope if isinstance(rope, Mapping) else {}, where="rope_parameters.")
    if own.raw:
        rope = {key: value for key, value in own.raw.items() if key not in _OWN}
    reader = ConfigReader({**raw, "rope_parameters": rope})
    fields = read_common(reader, "Ministral3ForCausalLM", context=262144, kv_heads=8, head_dim=128, eps=1e-5)
    fields["windows"] = (read_window(reader, None),) * fields["num_layers"]
    fields["query_beta"] = own.number("llama_4_scaling_beta", 0.0, positive=False)
    fields["query_steps"] = own.integer("original_max_position_embeddings", fields["context_length"])
    reader.problems += own.problems
    return finish(reader, fields)


def mistral3_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """A Mistral or Ministral 3 with a vision tower."""
    keys = ("image_token_index", "image_token_id", "projector_hidden_act", "vision_feature_layer")
    return language_config(
        raw,
        "Mistral3ForConditionalGeneration",
        {"mistral": mistral_config, "ministral3": ministral3_config},
        keys=(*keys, "multimodal_projector_bias", "spatial_merge_size"),
        defaults={},
    )


register_decoder("Ministral3ForCausalLM", "ministral3", ministral3_config, TABLE, ignored=IGNORED)
register_decoder(
    "Mistral3ForConditionalGeneration",
    "mistral3",
    mistral3_config,
    language_table(TABLE),
    ignored=f"{IGNORED_TOWERS}|{IGNORED}",
)
