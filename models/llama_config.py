"""The configuration of the Llama family: Llama 2 and 3, Mistral, Qwen2 and Qwen2.5.

Keys and defaults are those of transformers 5.23; where a key is absent its default there holds here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .config import ConfigReader
from .problems import raise_errors
from .rope import RopeConfig, read_rope
from .weights import FLOAT_DTYPES

LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Everything that determines the functions of one model.

    `ffn` is the inner size of the MLP, `context_length` the configured length in tokens. `windows` has one entry per
    layer: a token at position p sees the keys in (p - window, p], all of them where the window is 0.
    `checkpoint_dtype` is what the config says about the stored weights; the checkpoint itself decides.
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
    rope: RopeConfig
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    checkpoint_dtype: str

    @property
    def untied(self) -> bool:
        """Whether the head has a weight of its own."""
        return not self.tie_embeddings

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each logical axis of the weights."""
        return {
            "vocab": self.vocab_size,
            "hidden": self.hidden_size,
            "ffn": self.ffn,
            "heads": self.num_heads * self.head_dim,
            "kv_heads": self.num_kv_heads * self.head_dim,
        }


def llama_config(raw: Mapping[str, Any]) -> LlamaConfig:
    """Llama 2, 3, 3.x: as many key heads as heads unless given; `attention_bias` is of q, k, v and o."""
    reader = ConfigReader(raw)
    attention_bias, mlp_bias = reader.boolean("attention_bias", False), reader.boolean("mlp_bias", False)
    biases = {"qkv_bias": attention_bias, "output_bias": attention_bias, "mlp_bias": mlp_bias}
    return _finish(reader, "LlamaForCausalLM", context=2048, kv_heads=None, biases=biases)


def mistral_config(raw: Mapping[str, Any]) -> LlamaConfig:
    """Mistral: 8 key heads and a window of 4096 tokens unless given; a window of null means none. No biases."""
    reader = ConfigReader(raw)
    window = _window(reader)
    return _finish(reader, "MistralForCausalLM", context=131072, kv_heads=8, window=window)


def qwen2_config(raw: Mapping[str, Any]) -> LlamaConfig:
    """Qwen2 and Qwen2.5: q, k and v have biases.

    With `use_sliding_window` the layers from `max_window_layers` on are windowed; `layer_types`, which says the same
    layer by layer, wins.
    """
    reader = ConfigReader(raw)
    used = reader.boolean("use_sliding_window", False)
    window = _window(reader) if used else 0
    reader.seen.add("sliding_window")  # without use_sliding_window it has no effect, whatever its value
    first = reader.integer("max_window_layers", 28, minimum=0)
    types = _layer_types(reader, window)
    return _finish(
        reader,
        "Qwen2ForCausalLM",
        context=32768,
        kv_heads=32,
        biases={"qkv_bias": True, "output_bias": False, "mlp_bias": False},
        window=window,
        first_windowed=first,
        layer_types=types,
    )


def _window(reader: ConfigReader) -> int:
    """The sliding window in tokens, 0 for none: null says none, absence means 4096 (as in transformers)."""
    if "sliding_window" in reader.raw and reader.raw["sliding_window"] is None:
        reader.seen.add("sliding_window")
        return 0
    return reader.integer("sliding_window", 4096)


def _layer_types(reader: ConfigReader, window: int) -> list[str] | None:
    """The kind of each layer where the config lists them."""
    types = reader.get("layer_types", None)
    if types is None:
        return None
    fix = f"supported: {', '.join(LAYER_TYPES)}"
    if not isinstance(types, list) or any(t not in LAYER_TYPES for t in types):
        reader.bad(
            "layer_types", f'config key "layer_types" is {types!r:.80}', "it must list the kind of each layer", fix
        )
        return None
    if "sliding_attention" in types and not window:
        why = "there is no window without use_sliding_window and sliding_window"
        reader.bad("layer_types", 'config key "layer_types" has sliding_attention', why)
    return types


def _finish(
    reader: ConfigReader,
    architecture: str,
    *,
    context: int,
    kv_heads: int | None,
    biases: Mapping[str, bool] | None = None,
    window: int = 0,
    first_windowed: int = 0,
    layer_types: list[str] | None = None,
) -> LlamaConfig:
    """Read what the families share, check what only holds together, and raise all problems at once."""
    for key in ("architectures", "model_type"):
        reader.seen.add(key)  # `architecture` has read them
    vocab_size, hidden = reader.integer("vocab_size"), reader.integer("hidden_size")
    ffn, layers = reader.integer("intermediate_size"), reader.integer("num_hidden_layers", maximum=10000)
    heads = reader.integer("num_attention_heads")
    kv = reader.integer(
        "num_key_value_heads", heads if "num_key_value_heads" in reader.raw or kv_heads is None else kv_heads
    )
    head_dim = _head_dim(reader, hidden, heads)
    if reader.valid("num_attention_heads", "num_key_value_heads") and heads % kv:
        what = f"{heads} attention heads cannot share {kv} key/value heads"
        reader.bad("num_key_value_heads", what, "num_attention_heads must be a multiple of num_key_value_heads")
    length = reader.integer("max_position_embeddings", context)
    reader.choice("hidden_act", ("silu",), "silu")
    dtype_key = "dtype" if reader.get("dtype", None) is not None else "torch_dtype"
    dtype = reader.choice(dtype_key, FLOAT_DTYPES, "float32")
    reader.seen.add("torch_dtype")
    if layer_types is None:
        windows = tuple(window if i >= first_windowed else 0 for i in range(layers))
    else:
        windows = tuple(window if t == "sliding_attention" else 0 for t in layer_types)
        if reader.valid("num_hidden_layers") and len(windows) != layers:
            reader.bad(
                "layer_types", f'config key "layer_types" lists {len(windows)} layers', f"num_hidden_layers is {layers}"
            )
    biases = biases or {"qkv_bias": False, "output_bias": False, "mlp_bias": False}
    config = LlamaConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden,
        ffn=ffn,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=head_dim,
        context_length=length,
        norm_eps=reader.number("rms_norm_eps", 1e-6),
        tie_embeddings=reader.boolean("tie_word_embeddings", False),
        windows=windows,
        rope=read_rope(reader, dim=head_dim, context=length),
        checkpoint_dtype=dtype,
        **biases,
    )
    reader.check_unknown()
    raise_errors("config.json", reader.problems)
    return config


def _head_dim(reader: ConfigReader, hidden: int, heads: int) -> int:
    """The size of a head, hidden_size / num_attention_heads unless given; rotation pairs its dimensions."""
    given = reader.raw.get("head_dim") is not None
    head_dim = reader.integer("head_dim", max(1, hidden // heads))
    if not reader.valid("hidden_size", "num_attention_heads", "head_dim"):
        return 2
    if not given and hidden % heads:
        why = "it is not a multiple, and there is no head_dim"
        reader.bad("head_dim", f"{hidden} hidden features do not split into {heads} heads", why, "give head_dim")
    elif head_dim % 2:
        reader.bad(
            "head_dim",
            f"heads have {head_dim} dimensions",
            "rotary embedding pairs dimensions: the number must be even",
        )
    return head_dim
