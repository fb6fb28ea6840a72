"""Qwen2 and 2.5 (biases of q, k and v) and Qwen3 (norms of q and k instead): Llama otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common, read_layer_types, read_window, windows_of
from ..weights import Weight
from .llama import IGNORED, LAYER, TABLE, varied

QK_NORMS = (
    Weight("layers.{i}.attn.q_norm.weight", (LAYER + "self_attn.q_norm.weight",), ("q_norm",), "vector"),
    Weight("layers.{i}.attn.k_norm.weight", (LAYER + "self_attn.k_norm.weight",), ("k_norm",), "vector"),
)


def qwen2_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Qwen2 and Qwen2.5."""
    reader = ConfigReader(raw)
    fields = read_common(reader, "Qwen2ForCausalLM", context=32768, kv_heads=32)
    fields |= {"qkv_bias": True, "windows": _windows(reader, fields["num_layers"])}
    return finish(reader, fields)


def qwen3_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Qwen3; `attention_bias` is of q, k, v and o."""
    reader = ConfigReader(raw)
    fields = read_common(reader, "Qwen3ForCausalLM", context=32768, kv_heads=32, head_dim=128)
    bias = reader.boolean("attention_bias", False)
    fields |= {"qkv_bias": bias, "output_bias": bias, "qk_norm": "head"}
    fields["windows"] = _windows(reader, fields["num_layers"])
    return finish(reader, fields)


def _windows(reader: ConfigReader, layers: int) -> tuple[int, ...]:
    """With `use_sliding_window` the layers from `max_window_layers` on are windowed; `layer_types`, which says the same
    layer by layer, wins."""
    window = read_window(reader) if reader.boolean("use_sliding_window", False) else 0
    reader.seen.add("sliding_window")  # without use_sliding_window it has no effect, whatever its value
    first = reader.integer("max_window_layers", 28, minimum=0)
    types = read_layer_types(reader, layers, window)
    return windows_of(types, window) if types else tuple(window if i >= first else 0 for i in range(layers))


register_decoder("Qwen2ForCausalLM", "qwen2", qwen2_config, TABLE, ignored=IGNORED)
register_decoder("Qwen3ForCausalLM", "qwen3", qwen3_config, varied(TABLE, *QK_NORMS), ignored=IGNORED)
