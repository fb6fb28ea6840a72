"""SmolLM 3 (Hugging Face 2025): Llama with layers that have no positions (NoPE). SmolLM 1 and 2 are Llama itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common, read_layer_types, read_window, windows_of
from .llama import IGNORED, TABLE


def smollm3_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """`no_rope_layers` says 1 for a layer with positions and 0 for one without; every fourth has none where it is absent.

    Where windows are used and `layer_types` is absent, the layers without positions have them.
    """
    reader = ConfigReader(raw)
    fields = read_common(reader, "SmolLM3ForCausalLM", context=32768, kv_heads=4, tied=True, theta=2e6)
    layers, (rope, *_) = fields["num_layers"], fields["ropes"]
    rotated = _rotated(reader, layers)
    window = read_window(reader, None) if reader.boolean("use_sliding_window", False) else 0
    # Without use_sliding_window the first has no effect; the second, Qwen's, has none in this family.
    reader.seen.update(("sliding_window", "max_window_layers"))
    types = read_layer_types(reader, layers, window)
    fields["windows"] = windows_of(types, window) if types else tuple(0 if r else window for r in rotated)
    fields["ropes"] = tuple(rope if r else None for r in rotated)
    bias = reader.boolean("attention_bias", False)
    fields |= {"qkv_bias": bias, "output_bias": bias, "mlp_bias": reader.boolean("mlp_bias", False)}
    return finish(reader, fields)


def _rotated(reader: ConfigReader, layers: int) -> list[bool]:
    """Whether each layer has positions."""
    interval = reader.integer("no_rope_layer_interval", 4)
    given = reader.get("no_rope_layers", None)
    if given is None:
        return [(i + 1) % interval != 0 for i in range(layers)]
    if not isinstance(given, list) or len(given) != layers or any(value not in (0, 1) for value in given):
        what = f'config key "no_rope_layers" is {given!r:.80}'
        reader.bad("no_rope_layers", what, f"it must list 0 or 1 for each of {layers} layers")
        return [True] * layers
    return [bool(value) for value in given]


register_decoder("SmolLM3ForCausalLM", "smollm3", smollm3_config, TABLE, ignored=IGNORED)
