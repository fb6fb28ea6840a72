"""Checkpoints of true shapes with random weights, and a tokenizer that goes with them: what every system of a comparison reads.

Only shapes matter for speed; the weights are seeded, so that all systems and all machines get the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers

FILE = "model.safetensors"


def head_dim(config: dict[str, Any]) -> int:
    """Features of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of a Qwen2 or Llama model, as Hugging Face names them."""
    hidden, inner, d = config["hidden_size"], config["intermediate_size"], head_dim(config)
    rows = {"q": config["num_attention_heads"] * d} | dict.fromkeys("kv", config["num_key_value_heads"] * d)
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, size in rows.items():
            yield f"{at}.self_attn.{name}_proj.weight", (size, hidden)
            if config["model_type"] == "qwen2":
                yield f"{at}.self_attn.{name}_proj.bias", (size,)
        yield f"{at}.self_attn.o_proj.weight", (hidden, rows["q"])
        yield f"{at}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{at}.mlp.up_proj.weight", (inner, hidden)
        yield f"{at}.mlp.down_proj.weight", (hidden, inner)
        yield f"{at}.input_layernorm.weight", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def weights_a_token(config: dict[str, Any]) -> int:
    """Elements that one token multiplies with: all matrices, a tied table once, and of an untied one only the head."""
    sizes = {name: int(np.prod(shape)) for name, shape in tensors(config) if len(shape) == 2}
    return sum(sizes.values()) - (sizes["model.embed_tokens.weight"] if "lm_head.weight" in sizes else 0)


def kv_elements(config: dict[str, Any]) -> int:
    """Elements of keys and values that one token adds."""
    return int(2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim(config))


def make_checkpoint(config: dict[str, Any], folder: Path, seed: int = 0) -> Path:
    """A checkpoint in float16 with a tokenizer, in `folder`; one that is complete is kept."""
    config = config | dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)  # some readers insist on them
    if (folder / FILE).is_file() and json.loads((folder / "config.json").read_text()) == config:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    rng, made = np.random.default_rng(seed), {}
    for name, shape in tensors(config):
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        made[name] = (values + (1 if "norm" in name else 0)).astype(np.float16)
    make_tokenizer(config["vocab_size"], folder)
    unfinished = folder / f"{FILE}.part"  # renamed when it is whole
    save_file(made, unfinished, metadata={"format": "pt"})
    unfinished.rename(folder / FILE)
    return folder


def make_tokenizer(vocab_size: int, folder: Path) -> None:
    """A tokenizer of `vocab_size` tokens: ends that readers would add themselves, one for each byte, and others."""
    known = ["<|endoftext|>", "<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names = [*known, *(f"<{i}>" for i in range(len(known), vocab_size))][:vocab_size]
    backend = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
