"""GGUF files of transformers' models, written with the gguf package in the way of llama.cpp's conversion."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import quantize
from safetensors.numpy import load_file

Tensors = dict[str, np.ndarray]
T = GGMLQuantizationType
F32 = T.F32
MODEL = Path(__file__).parents[1] / "examples" / "tinydoc"
METADATA = {
    "context_length": 2048,
    "embedding_length": 256,
    "block_count": 4,
    "feed_forward_length": 640,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": 64,
    "rope.freq_base": 10000.0,
    "vocab_size": 4096,
}
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def rotary_pairs(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in llama.cpp's order: the two halves of a head interleaved."""
    halves = array.reshape(heads, 2, -1, *array.shape[1:])
    return np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(array.shape)


def by_projection(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of GPT-NeoX's fused projection, q, k and v of each head, as all of q, then k, then v."""
    per_head = array.reshape(heads, 3, -1, *array.shape[1:])
    return np.concatenate([per_head[:, i].reshape(-1, *array.shape[1:]) for i in range(3)])


def converted(
    arch: MODEL_ARCH, tensors: Tensors, layers: int, change: Callable[[str, np.ndarray], np.ndarray]
) -> Tensors:
    """Tensors under GGUF's names by gguf-py's own table; `change` sees transformers' names."""
    names = get_tensor_name_map(arch, layers)
    found = {}
    for name, array in tensors.items():
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, f"gguf-py has no name for {name}"
        found[new] = change(name, array)
    return found


def write_gguf(
    path: Path,
    arch: str | MODEL_ARCH,
    metadata: Mapping[str, Any],
    tensors: Tensors,
    kind: Callable[[str, np.ndarray], GGMLQuantizationType] = lambda name, array: F32,
    **other: Any,
) -> Path:
    """A file with `metadata` under the architecture's name, `other` under names with `__` for dots, tensors of `kind`.

    Types: bool, int, float and str as they are (uint32, float32), lists by their first value.
    """
    name = arch if isinstance(arch, str) else MODEL_ARCH_NAMES[arch]
    writer = GGUFWriter(path, name)
    for key, value in [*((f"{name}.{key}", v) for key, v in metadata.items()), *other.items()]:
        _add(writer, key.replace("__", "."), value)
    for tensor, array in tensors.items():
        chosen = kind(tensor, array)
        data = np.ascontiguousarray(array, np.float32)
        data = data if chosen == F32 else quantize(data, chosen)
        writer.add_tensor(tensor, data, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def llama_metadata(config: Any, **more: Any) -> dict[str, Any]:
    """What llama.cpp's conversion says of nearly all decoders."""
    found = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "vocab_size": config.vocab_size,
    }
    return found | more


def tokenizer_metadata(directory: Path) -> dict[str, Any]:
    """The tokenizer of a Hugging Face directory (byte-level BPE) under GGUF's keys."""
    rules = json.loads((directory / "tokenizer.json").read_text())
    vocab = {**rules["model"]["vocab"], **{token["content"]: token["id"] for token in rules["added_tokens"]}}
    special = {token["content"] for token in rules["added_tokens"] if token["special"]}
    added = {token["content"] for token in rules["added_tokens"]}
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = [m if isinstance(m, str) else " ".join(m) for m in rules["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in special else 4 if t in added else 1 for t in tokens],
        "tokenizer.ggml.merges": merges,
    }


def stored_tensors() -> Tensors:
    """The example model's tensors as llama.cpp's conversion stores them."""
    found = {}
    heads = {"q_proj": 4, "k_proj": 2}
    for name, array in load_file(MODEL / "model.safetensors").items():
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            part = rest.removesuffix(".weight")
            count = heads.get(part.rpartition(".")[2])
            found[f"blk.{layer}.{NAMES[part]}.weight"] = rotary_pairs(array, count) if count else array
        else:
            found[
                {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
            ] = array
    return found


def write_tinydoc(path: Path, kind: Callable[[str], T]) -> Path:
    """The example model with each matrix as `kind` of its name."""
    tokenizer = {key.replace(".", "__"): value for key, value in tokenizer_metadata(MODEL).items()}
    template = json.loads((MODEL / "tokenizer_config.json").read_text())["chat_template"]
    return write_gguf(
        path,
        "llama",
        METADATA,
        stored_tensors(),
        lambda name, array: kind(name) if array.ndim == 2 else T.F32,
        **tokenizer,
        tokenizer__ggml__eos_token_id=2,
        tokenizer__ggml__padding_token_id=0,
        tokenizer__ggml__add_bos_token=False,
        tokenizer__chat_template=template,
    )


def small(path: Path, **other: Any) -> Path:
    """A file with two tensors."""
    tensors = {"token_embd.weight": np.arange(64, dtype=np.float32).reshape(2, 32), "b": np.float32([1, 2, 3])}
    return write_gguf(path, "llama", METADATA | {"list": [1, 2, 3], "names": ["a", "", "ü"]}, tensors, **other)
