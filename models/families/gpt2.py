"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, a plain MLP; matrices are stored [in, out]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader, renamed
from ..decoder import register_decoder
from ..decoder_config import DecoderConfig, finish, read_common
from ..weights import Weight, fused
from .llama import ATTENTION_BIASES, ATTENTION_WEIGHTS, norm_biases

_NAMES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
}
_SUMMARY = ["summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"]
_LAYER = "transformer.h.{i}."
_EMBED = ("transformer.wte.weight",)
_QKV = ("heads", "kv_heads", "kv_heads")

_TABLE = (
    Weight("embed.weight", _EMBED, ("vocab", "hidden"), "embedding", when="untied"),
    Weight("embed.weight", (*_EMBED, "lm_head.weight"), ("vocab", "hidden"), "embedding", when="tie_embeddings"),
    Weight("positions.weight", ("transformer.wpe.weight",), ("positions", "hidden"), "table"),
    Weight("layers.{i}.attn_norm.weight", (_LAYER + "ln_1.weight",), ("hidden",), "vector"),
    *fused(ATTENTION_WEIGHTS, _LAYER + "attn.c_attn.weight", _QKV, "linear", columns=("hidden",), transpose=True),
    *fused(ATTENTION_BIASES, _LAYER + "attn.c_attn.bias", _QKV, "vector"),
    Weight("layers.{i}.attn.o.weight", (_LAYER + "attn.c_proj.weight",), ("hidden", "heads"), "linear", transpose=True),
    Weight("layers.{i}.attn.o.bias", (_LAYER + "attn.c_proj.bias",), ("hidden",), "vector"),
    Weight("layers.{i}.mlp_norm.weight", (_LAYER + "ln_2.weight",), ("hidden",), "vector"),
    Weight("layers.{i}.mlp.up.weight", (_LAYER + "mlp.c_fc.weight",), ("ffn", "hidden"), "linear", transpose=True),
    Weight("layers.{i}.mlp.up.bias", (_LAYER + "mlp.c_fc.bias",), ("ffn",), "vector"),
    Weight("layers.{i}.mlp.down.weight", (_LAYER + "mlp.c_proj.weight",), ("hidden", "ffn"), "linear", transpose=True),
    Weight("layers.{i}.mlp.down.bias", (_LAYER + "mlp.c_proj.bias",), ("hidden",), "vector"),
    Weight("norm.weight", ("transformer.ln_f.weight",), ("hidden",), "vector"),
    Weight("lm_head.weight", ("lm_head.weight",), ("vocab", "hidden"), "linear", when="untied"),
)

TABLE = (*_TABLE, *norm_biases(_TABLE))

IGNORED = r"(.*\.)?attn\.(masked_)?bias"  # the causal mask, which old checkpoints store


def gpt2_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """The MLP is 4 times as wide as the hidden states unless `n_inner` says otherwise."""
    named = renamed(raw, _NAMES)
    if named.get("intermediate_size") is None and isinstance(named.get("hidden_size"), int):
        named["intermediate_size"] = 4 * named["hidden_size"]
    reader = ConfigReader(named)
    fields = read_common(
        reader,
        "GPT2LMHeadModel",
        context=1024,
        tied=True,
        eps=1e-5,
        eps_key="layer_norm_epsilon",
        activation="gelu_new",
        activation_key="activation_function",
        rope=False,
    )
    reader.fixed("scale_attn_weights", True)
    reader.fixed("scale_attn_by_inverse_layer_idx", False)
    reader.seen.update(("reorder_and_upcast_attn", "n_ctx", *_SUMMARY))  # how to compute the same, or of other heads
    fields |= {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "gated": False}
    fields |= {"norm": "layer", "norm_bias": True, "position_rows": fields["context_length"]}
    return finish(reader, fields)


register_decoder("GPT2LMHeadModel", "gpt2", gpt2_config, TABLE, ignored=IGNORED, base="transformer.")
