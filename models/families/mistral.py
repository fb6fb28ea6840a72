"""Mistral (Jiang et al. 2023) and Ministral: Llama with sliding windows and no biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common, read_layer_types, read_window, windows_of
from .llama import IGNORED, TABLE


def mistral_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """8 key heads and a window of 4096 tokens unless given; a window of null means none."""
    reader = ConfigReader(raw)
    fields = read_common(reader, "MistralForCausalLM", context=131072, kv_heads=8)
    fields["windows"] = (read_window(reader),) * fields["num_layers"]
    return finish(reader, fields)


def ministral_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Mistral whose `layer_types` may say which layers have the window, all unless given."""
    reader = ConfigReader(raw)
    fields = read_common(reader, "MinistralForCausalLM", context=131072, kv_heads=8)
    layers, window = fields["num_layers"], read_window(reader)
    types = read_layer_types(reader, layers, window)
    fields["windows"] = windows_of(types, window) if types else (window,) * layers
    return finish(reader, fields)


register_decoder("MistralForCausalLM", "mistral", mistral_config, TABLE, ignored=IGNORED)
register_decoder("MinistralForCausalLM", "ministral", ministral_config, TABLE, ignored=IGNORED)
