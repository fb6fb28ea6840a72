"""ModernBERT (Warner et al. 2024): rotary positions, gated MLPs, norms before, and windows in two of three layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder_config import LAYER_TYPES, read_common, read_layer_types, windows_of
from ..encoder import register_encoder
from ..encoder_config import EncoderConfig, finish_encoder
from ..rope_config import read_layer_ropes
from ..weights import Part, Weight, WeightSpec, expand

_LAYER = "model.layers.{i}."
_QKV = ("heads", "heads", "heads")
_WIDE = ("ffn", "ffn")


def _projections(bias: bool) -> list[Weight]:
    """The projections' weights, or their biases."""
    end, kind = ("bias", "vector") if bias else ("weight", "linear")
    attn, mlp = ("qkv_bias", "mlp_bias") if bias else ("", "")

    def row(param: str, name: str, out: str, inner: str, when: str, part: Part | None = None) -> Weight:
        axes = (out,) if bias else (out, inner)
        return Weight(f"layers.{{i}}.{param}.{end}", (f"{_LAYER}{name}.{end}",), axes, kind, when, part)  # type: ignore[arg-type]

    qkv = [row(f"attn.{c}", "attn.Wqkv", "heads", "hidden", attn, Part(_QKV, i)) for i, c in enumerate("qkv")]
    return [
        *qkv,
        row("attn.o", "attn.Wo", "hidden", "heads", attn),
        row("mlp.gate", "mlp.Wi", "ffn", "hidden", mlp, Part(_WIDE, 0)),
        row("mlp.up", "mlp.Wi", "ffn", "hidden", mlp, Part(_WIDE, 1)),
        row("mlp.down", "mlp.Wo", "hidden", "ffn", mlp),
    ]


def _norm(param: str, name: str) -> list[Weight]:
    return [
        Weight(f"{param}.weight", (f"{name}.weight",), ("hidden",), "vector"),
        Weight(f"{param}.bias", (f"{name}.bias",), ("hidden",), "vector", when="norm_bias"),
    ]


TABLE = (
    Weight("embed.weight", ("model.embeddings.tok_embeddings.weight",), ("vocab", "hidden"), "embedding"),
    *_norm("embed_norm", "model.embeddings.norm"),
    *_projections(bias=False),
    *_projections(bias=True),
    *_norm("layers.{i}.attn_norm", _LAYER + "attn_norm"),
    *_norm("layers.{i}.mlp_norm", _LAYER + "mlp_norm"),
    *_norm("norm", "model.final_norm"),
)


def modernbert_config(raw: Mapping[str, Any]) -> EncoderConfig:
    """`local_attention` is the size of the windows to both sides together; every third layer sees all unless
    `global_attn_every_n_layers` or `layer_types` say otherwise."""
    reader = ConfigReader(raw)
    fields = read_common(
        reader,
        "ModernBertModel",
        context=8192,
        tied=True,
        eps=1e-5,
        eps_key="norm_eps",
        activation="gelu",
        activation_key="hidden_activation",
        rope=False,
    )
    layers, every = fields["num_layers"], reader.integer("global_attn_every_n_layers", 3)
    window = reader.integer("local_attention", 128, minimum=2) // 2 + 1
    types = read_layer_types(reader, layers, window)
    types = types or [LAYER_TYPES[bool(i % every)] for i in range(layers)]
    bases = {"full_attention": ("global_rope_theta", 160000.0), "sliding_attention": ("local_rope_theta", 10000.0)}
    sizes = {"head_dim": fields["head_dim"], "context": fields["context_length"]}
    ropes = read_layer_ropes(reader, types, bases=bases, scaled=tuple(bases), **sizes)
    fields |= {"windows": windows_of(types, window), "ropes": ropes}
    bias = reader.boolean("attention_bias", False)
    fields |= {"qkv_bias": bias, "output_bias": bias, "mlp_bias": reader.boolean("mlp_bias", False)}
    fields |= {"norm": "layer", "norm_bias": reader.boolean("norm_bias", False), "post_norm": False}
    for key in ("layer_norm_eps", "position_embedding_type"):
        reader.seen.add(key)  # the first checkpoints have these, which transformers does not read
    for key in raw:  # training, the heads, and how transformers computes
        if key.startswith(("classifier_", "sparse_pred", "decoder_bias", "embedding_dropout", "mlp_dropout")):
            reader.seen.add(key)
    for key in ("cls_token_id", "deterministic_flash_attn", "initializer_cutoff_factor"):
        reader.seen.add(key)
    reader.seen.update(("reference_compile", "repad_logits_with_grad"))
    return finish_encoder(reader, fields)


def weights(config: EncoderConfig) -> dict[str, WeightSpec]:
    """Every parameter and where it stands in a checkpoint; the first layer has no `attn_norm`."""
    specs = expand(TABLE, layers=config.num_layers, sizes=config.sizes, flags=config)
    return {param: spec for param, spec in specs.items() if not param.startswith("layers.0.attn_norm.")}


for _name in ("ModernBertModel", "ModernBertForMaskedLM"):
    register_encoder(_name, "modernbert", modernbert_config, weights, ignored=r"head\..*|decoder\..*|classifier\..*")
