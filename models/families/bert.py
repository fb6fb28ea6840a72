"""BERT (Devlin et al. 2019) with MiniLM, and RoBERTa (Liu et al. 2019) with XLM-R: learned positions, norms after the sums.

All tokens have the first type. RoBERTa and XLM-R count positions from the padding token's id + 1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ..config import ConfigReader
from ..decoder_config import read_common
from ..encoder import register_encoder
from ..encoder_config import EncoderConfig, finish_encoder
from ..weights import Kind, Part, Weight, WeightSpec, expand

_LAYER = "encoder.layer.{i}."
_LINEARS = {  # parameter: tensor, axes
    "attn.q": ("attention.self.query", ("heads", "hidden")),
    "attn.k": ("attention.self.key", ("heads", "hidden")),
    "attn.v": ("attention.self.value", ("heads", "hidden")),
    "attn.o": ("attention.output.dense", ("hidden", "heads")),
    "mlp.up": ("intermediate.dense", ("ffn", "hidden")),
    "mlp.down": ("output.dense", ("hidden", "ffn")),
}
_NORMS = {"attn_norm": "attention.output.LayerNorm", "mlp_norm": "output.LayerNorm"}


def _table(prefix: str) -> tuple[Weight, ...]:
    """The table of a family whose checkpoints with a head call the encoder `prefix`; those of a bare encoder do not."""

    def row(param: str, name: str, axes: tuple[str, ...], kind: Kind, *old: str, part: Part | None = None) -> Weight:
        source = tuple(found for spelled in (name, *old) for found in (f"{prefix}.{spelled}", spelled))
        return Weight(param, source, axes, kind, part=part)

    def norm(param: str, name: str) -> list[Weight]:
        pairs = (("weight", "gamma"), ("bias", "beta"))  # as TensorFlow's first checkpoints, converted, spell them
        return [row(f"{param}.{new}", f"{name}.{new}", ("hidden",), "vector", f"{name}.{old}") for new, old in pairs]

    rows = [
        row("embed.weight", "embeddings.word_embeddings.weight", ("vocab", "hidden"), "embedding"),
        row(
            "positions.weight",
            "embeddings.position_embeddings.weight",
            ("positions", "hidden"),
            "vector",
            part=Part(("unused_positions", "positions"), 1),
        ),
        row(
            "types.weight",
            "embeddings.token_type_embeddings.weight",
            ("type", "hidden"),
            "vector",
            part=Part(("type", "other_types"), 0),
        ),
        *norm("embed_norm", "embeddings.LayerNorm"),
    ]
    for param, (name, axes) in _LINEARS.items():
        rows.append(row(f"layers.{{i}}.{param}.weight", f"{_LAYER}{name}.weight", axes, "linear"))
        rows.append(row(f"layers.{{i}}.{param}.bias", f"{_LAYER}{name}.bias", axes[:1], "vector"))
    for param, name in _NORMS.items():
        rows += norm(f"layers.{{i}}.{param}", _LAYER + name)
    return tuple(rows)


def bert_config(raw: Mapping[str, Any], *, architecture: str, padded: bool) -> EncoderConfig:
    """A config of any of them; with `padded` positions begin behind the padding token's id (RoBERTa)."""
    reader = ConfigReader(raw)
    fields = read_common(
        reader,
        architecture,
        context=512,
        tied=True,
        eps=1e-12,
        eps_key="layer_norm_eps",
        activation="gelu",
        rope=False,
    )
    reader.choice("position_embedding_type", ("absolute",), "absolute")
    reader.choice("directionality", ("bidi",), "bidi")
    reader.seen.add("output_past")  # of the cache
    reader.seen.update(key for key in raw if key.startswith("pooler_"))  # of the pooler of TensorFlow's BERT
    first = reader.integer("pad_token_id", 1, minimum=0) + 1 if padded else 0
    rows = fields["context_length"] - first
    if rows < 1:
        what = f"{fields['context_length']} positions, of which the first is {first}"
        reader.bad("max_position_embeddings", what, "they begin behind pad_token_id", "check config.json")
    biases = {"norm_bias": True, "qkv_bias": True, "output_bias": True, "mlp_bias": True}
    fields |= {"norm": "layer", "gated": False, "post_norm": True, "types": reader.integer("type_vocab_size", 2)}
    fields |= {"context_length": rows, "position_rows": rows, "first_position": first, "norms": ()}
    return finish_encoder(reader, fields | biases)


def _weights(table: tuple[Weight, ...], config: EncoderConfig) -> dict[str, WeightSpec]:
    return expand(table, layers=config.num_layers, sizes=config.sizes, flags=config)


def _register(prefix: str, model_type: str, padded: bool, *architectures: str) -> None:
    ignored = r"(.*\.)?position_ids|(.*\.)?pooler\..*|cls\..*|lm_head\..*|classifier\..*"
    for name in architectures:
        register_encoder(
            name,
            model_type,
            functools.partial(bert_config, architecture=name, padded=padded),
            functools.partial(_weights, _table(prefix)),
            ignored=ignored,
            poolers=(f"{prefix}.pooler.dense", "pooler.dense"),
        )


_register("bert", "bert", False, "BertModel", "BertForMaskedLM", "BertForPreTraining")
_register("roberta", "roberta", True, "RobertaModel", "RobertaForMaskedLM")
_register("roberta", "xlm-roberta", True, "XLMRobertaModel", "XLMRobertaForMaskedLM")
