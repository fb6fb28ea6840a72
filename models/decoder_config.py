"""The configuration of a decoder: every choice that the decoder families of `families/` make differently.

A family reads its config.json with `read_common` for what nearly all have, and gives the rest by hand. Keys and defaults are
those of transformers 5.23; where a key is absent its default there holds here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from .config import ConfigReader
from .problems import raise_errors
from .rope import DEFAULT_THETA, RopeConfig
from .rope_config import read_rope
from .weights import FLOAT_DTYPES

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
"""Activations by the names that transformers gives them."""

LAYER_TYPES = ("full_attention", "sliding_attention")
PRE_NORM = ("attn_norm", "mlp_norm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Everything that determines the functions of one model.

    `ffn` is the inner size of the MLP, `context_length` the configured length in tokens. `windows` has one entry per layer: a
    token at position p sees the keys in (p - window, p], all of them where the window is 0. `ropes` has the rotary
    embedding of each layer, None where it has no positions (NoPE). `position_rows` are the rows of a learned position table.

    `norms` names the norms of a layer: `attn_norm` and `mlp_norm` stand before attention and MLP, `attn_post_norm` and
    `mlp_post_norm` after them, before the residual sum. With `parallel` attention and MLP both read the layer's input; without
    an `mlp_norm` they then share the `attn_norm`. `qk_norm` normalises q and k: "head" each head with one weight for all,
    "heads" each head with a weight of its own, "full" all heads together.

    `attention_scale` multiplies scores (0: head_dim ** -0.5). With `query_beta` queries grow by the logarithm of their position in
    steps of `query_steps` tokens. `embed_scale`, `residual_scale` and `logit_scale` multiply
    embeddings, what a layer's two halves add, and logits. `checkpoint_dtype` is what the config says about the stored weights;
    the checkpoint itself decides.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    ffn: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float
    tie_embeddings: bool
    windows: tuple[int, ...]
    ropes: tuple[RopeConfig | None, ...]
    checkpoint_dtype: str
    rope_interleaved: bool = False
    position_rows: int = 0
    norm: Literal["rms", "layer"] = "rms"
    norm_bias: bool = False
    norms: tuple[str, ...] = PRE_NORM
    parallel: bool = False
    qk_norm: Literal["", "head", "heads", "full"] = ""
    activation: str = "silu"
    gated: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    query_beta: float = 0.0
    query_steps: int = 0
    logit_softcap: float = 0.0
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0

    @property
    def untied(self) -> bool:
        """Whether the head has a weight of its own."""
        return not self.tie_embeddings

    @property
    def has_qk_norm(self) -> bool:
        """Whether q and k are normalised."""
        return bool(self.qk_norm)

    @property
    def has_mlp_norm(self) -> bool:
        """Whether the MLP has a norm of its own in front."""
        return "mlp_norm" in self.norms

    @property
    def lookaheads(self) -> tuple[int, ...]:
        """How many of the next tokens a token sees in each layer, -1 for all that its step lets it see: none here."""
        return (-1,) * self.num_layers

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each logical axis of the weights, and the numbers of heads by which fused projections are grouped."""
        heads, kv_heads = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shared = self.qk_norm == "head"
        return {
            "vocab": self.vocab_size,
            "hidden": self.hidden_size,
            "ffn": self.ffn,
            "heads": heads,
            "kv_heads": kv_heads,
            "q_norm": self.head_dim if shared else heads,
            "k_norm": self.head_dim if shared else kv_heads,
            "positions": self.position_rows,
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
        }


def read_common(
    reader: ConfigReader,
    architecture: str,
    *,
    context: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    tied: bool = False,
    eps: float = 1e-6,
    eps_key: str = "rms_norm_eps",
    activation: str = "silu",
    activation_key: str = "hidden_act",
    ffn_key: str = "intermediate_size",
    rope: bool = True,
    partial_rotary: float | None = None,
    theta: float = DEFAULT_THETA,
) -> dict[str, Any]:
    """The fields of DecoderConfig that nearly all families have, with a family's defaults; problems go to the reader.

    `kv_heads` is the default of num_key_value_heads where the key is absent (None: num_attention_heads), `head_dim` likewise
    (None: hidden_size / num_attention_heads), `partial_rotary` of the part of a head that is rotated (None: always the whole),
    `theta` of the rotary base. No layer has a window.
    """
    reader.seen.update(("architectures", "model_type"))  # `architecture` has read them
    vocab_size, hidden = reader.integer("vocab_size"), reader.integer("hidden_size")
    ffn, layers = reader.integer(ffn_key), reader.integer("num_hidden_layers", maximum=10000)
    heads = reader.integer("num_attention_heads")
    absent = heads if "num_key_value_heads" in reader.raw or kv_heads is None else kv_heads
    kv = reader.integer("num_key_value_heads", absent)
    if reader.valid("num_attention_heads", "num_key_value_heads") and heads % kv:
        what = f"{heads} attention heads cannot share {kv} key/value heads"
        reader.bad("num_key_value_heads", what, "num_attention_heads must be a multiple of num_key_value_heads")
    size = read_head_dim(reader, hidden, heads, head_dim)
    length = reader.integer("max_position_embeddings", context)
    rotary = read_rope(reader, head_dim=size, context=length, partial=partial_rotary, theta=theta) if rope else None
    return {
        "architecture": architecture,
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "ffn": ffn,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv,
        "head_dim": size,
        "context_length": length,
        "norm_eps": reader.number(eps_key, eps),
        "tie_embeddings": reader.boolean("tie_word_embeddings", tied),
        "windows": (0,) * layers,
        "ropes": (rotary,) * layers,
        "activation": ACTIVATIONS[reader.choice(activation_key, tuple(ACTIVATIONS), activation)],
        "checkpoint_dtype": read_dtype(reader),
    }


def finish(reader: ConfigReader, fields: Mapping[str, Any]) -> DecoderConfig:
    """The config of these fields, once no key is left unread; ModelError with all problems of the reader."""
    reader.check_unknown()
    raise_errors("config.json", reader.problems)
    return DecoderConfig(**fields)


def shortened(config: DecoderConfig, length: int) -> DecoderConfig:
    """The config of the same model for sequences of at most `length` tokens, not more than `context_length`.

    Only longrope depends on it, whose factors are chosen by the context.
    """
    ropes = tuple(rope and dataclasses.replace(rope, context=length) for rope in config.ropes)
    return dataclasses.replace(config, context_length=length, ropes=ropes)


def read_head_dim(reader: ConfigReader, hidden: int, heads: int, default: int | None = None) -> int:
    """The size of a head, hidden_size / num_attention_heads unless given; rotation pairs its dimensions."""
    given = reader.raw.get("head_dim") is not None or default is not None
    head_dim = reader.integer("head_dim", default or max(1, hidden // heads))
    if not reader.valid("hidden_size", "num_attention_heads", "head_dim"):
        return 2
    if not given and hidden % heads:
        why = "it is not a multiple, and there is no head_dim"
        reader.bad("head_dim", f"{hidden} hidden features do not split into {heads} heads", why, "give head_dim")
    elif head_dim % 2:
        what, why = f"heads have {head_dim} dimensions", "rotary embedding pairs dimensions: the number must be even"
        reader.bad("head_dim", what, why)
    return head_dim


def read_dtype(reader: ConfigReader) -> str:
    """What the config says about the type of the stored weights."""
    key = "dtype" if reader.get("dtype", None) is not None else "torch_dtype"
    reader.seen.add("torch_dtype")
    return reader.choice(key, FLOAT_DTYPES, "float32")


def read_window(reader: ConfigReader, default: int | None = 4096) -> int:
    """The sliding window in tokens, 0 for none: null says none, absence means `default` (None: none)."""
    reader.seen.add("sliding_window")
    absent = "sliding_window" not in reader.raw and default is None
    if absent or ("sliding_window" in reader.raw and reader.raw["sliding_window"] is None):
        return 0
    return reader.integer("sliding_window", default)


def read_layer_types(reader: ConfigReader, layers: int, window: int) -> list[str] | None:
    """The kind of each layer where the config lists as many as there are; problems go to the reader."""
    types = reader.get("layer_types", None)
    if types is None:
        return None
    fix = f"supported: {', '.join(LAYER_TYPES)}"
    if not isinstance(types, list) or any(t not in LAYER_TYPES for t in types):
        what, why = f'config key "layer_types" is {types!r:.80}', "it must list the kind of each layer"
        reader.bad("layer_types", what, why, fix)
        return None
    if "sliding_attention" in types and not window:
        why = "there is no window without use_sliding_window and sliding_window"
        reader.bad("layer_types", 'config key "layer_types" has sliding_attention', why)
    if reader.valid("num_hidden_layers") and len(types) != layers:
        what = f'config key "layer_types" lists {len(types)} layers'
        reader.bad("layer_types", what, f"num_hidden_layers is {layers}")
        return None
    return types


def windows_of(types: list[str], window: int) -> tuple[int, ...]:
    """The window of each layer by its kind."""
    return tuple(window if t == "sliding_attention" else 0 for t in types)


def read_alternation(
    reader: ConfigReader, layers: int, every: int, *, key: str = "sliding_window_pattern"
) -> tuple[int, ...]:
    """The window of each layer, where all layers but each `every`-th have one.

    The config may give another number under `key`, which newer configs repeat as `_key`; `layer_types`, which says the same layer
    by layer, wins.
    """
    window = read_window(reader)
    if key:
        reader.seen.add("_" + key)
        every = reader.integer(key, reader.raw.get("_" + key) or every)
    types = read_layer_types(reader, layers, window)
    types = types or [LAYER_TYPES[bool((i + 1) % every)] for i in range(layers)]
    if not window and "sliding_attention" in types and reader.valid("layer_types"):
        reader.bad("sliding_window", 'config key "sliding_window" is null', "this family has layers with a window")
    return windows_of(types, window)
