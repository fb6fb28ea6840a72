"""StarCoder 2 (Lozhkov et al. 2024): Llama's attention with biases and windows, LayerNorm, a plain MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common, read_window
from ..weights import Weight
from .llama import IGNORED, LAYER, TABLE, norm_biases, varied

_PLAIN = varied(
    TABLE,
    Weight("layers.{i}.mlp.up.weight", (LAYER + "mlp.c_fc.weight",), ("ffn", "hidden"), "linear"),
    Weight("layers.{i}.mlp.up.bias", (LAYER + "mlp.c_fc.bias",), ("ffn",), "vector", when="mlp_bias"),
    Weight("layers.{i}.mlp.down.weight", (LAYER + "mlp.c_proj.weight",), ("hidden", "ffn"), "linear"),
    Weight("layers.{i}.mlp.down.bias", (LAYER + "mlp.c_proj.bias",), ("hidden",), "vector", when="mlp_bias"),
    without=("layers.{i}.mlp.gate.weight", "layers.{i}.mlp.gate.bias"),
)

STARCODER2_TABLE = (*_PLAIN, *norm_biases(_PLAIN))


def starcoder2_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """`use_bias` is of every linear but the head."""
    reader = ConfigReader(raw)
    fields = read_common(
        reader,
        "Starcoder2ForCausalLM",
        context=4096,
        kv_heads=2,
        tied=True,
        eps=1e-5,
        eps_key="norm_epsilon",
        activation="gelu_pytorch_tanh",
    )
    reader.choice("mlp_type", ("default",), "default")
    reader.choice("norm_type", ("layer_norm",), "layer_norm")
    # Of training, and other spellings of what has been read.
    reader.seen.update(("embedding_dropout", "residual_dropout", "activation_function", "layer_norm_epsilon"))
    fields["windows"] = (read_window(reader, None),) * fields["num_layers"]
    bias = reader.boolean("use_bias", True)
    fields |= {"qkv_bias": bias, "output_bias": bias, "mlp_bias": bias, "gated": False}
    return finish(reader, fields | {"norm": "layer", "norm_bias": True})


register_decoder("Starcoder2ForCausalLM", "starcoder2", starcoder2_config, STARCODER2_TABLE, ignored=IGNORED)
