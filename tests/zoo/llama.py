"""Llama itself under other names, and the families nearest to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.model_tools import save_random

from .case import Case, made, rope

YARN = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
LINEAR = rope(rope_type="linear", factor=2.0)
DYNAMIC = rope(rope_type="dynamic", factor=2.0)


def _internlm2(**options: Any) -> Any:
    """A Llama under the names of InternLM 2, with q, k and v fused; the Llama itself is the reference."""

    def save(path: Path) -> Path:
        import torch
        from safetensors.torch import load_file, save_file

        bias = options.pop("bias", False)
        config = made("LlamaConfig", attention_bias=bias, **options)()
        reference = path.parent / "reference"
        save_random(reference, config)
        tensors = load_file(reference / "model.safetensors")
        heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        renamed = {}
        for layer in range(config.num_hidden_layers):
            at = f"model.layers.{layer}."
            for kind in ("weight", "bias") if bias else ("weight",):
                parts = [tensors[f"{at}self_attn.{n}_proj.{kind}"] for n in "qkv"]
                shapes = [
                    (groups, (heads if i == 0 else groups) // groups * size, *p.shape[1:]) for i, p in enumerate(parts)
                ]
                fused = torch.cat([p.reshape(s) for p, s in zip(parts, shapes, strict=True)], 1)
                renamed[f"{at}attention.wqkv.{kind}"] = fused.reshape(-1, *parts[0].shape[1:]).contiguous()
                renamed[f"{at}attention.wo.{kind}"] = tensors[f"{at}self_attn.o_proj.{kind}"]
            for a, b in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
                renamed[f"{at}feed_forward.{a}.weight"] = tensors[f"{at}mlp.{b}.weight"]
            renamed[f"{at}attention_norm.weight"] = tensors[f"{at}input_layernorm.weight"]
            renamed[f"{at}ffn_norm.weight"] = tensors[f"{at}post_attention_layernorm.weight"]
        renamed["model.tok_embeddings.weight"] = tensors["model.embed_tokens.weight"]
        renamed["model.norm.weight"] = tensors["model.norm.weight"]
        if "lm_head.weight" in tensors:
            renamed["output.weight"] = tensors["lm_head.weight"]
        path.mkdir()
        save_file(renamed, path / "model.safetensors", {"format": "pt"})
        raw = json.loads((reference / "config.json").read_text())
        for key in ("attention_bias", "mlp_bias", "head_dim", "rope_parameters"):
            raw.pop(key, None)
        scaling = config.rope_parameters
        raw |= {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": bias}
        raw |= {"rope_theta": scaling["rope_theta"], "auto_map": {}, "attn_implementation": "eager"}
        if scaling["rope_type"] != "default":
            raw["rope_scaling"] = {"type": scaling["rope_type"], "factor": scaling["factor"]}
        (path / "config.json").write_text(json.dumps(raw))
        return reference

    return save


LLAMA3 = rope(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)

CASES = (
    Case(
        "LlamaForCausalLM",
        "llama3",
        "Llama 3.x: llama3 scaling, 7 heads on one key head",
        made(
            "LlamaConfig",
            hidden_size=112,
            num_attention_heads=7,
            num_key_value_heads=1,
            head_dim=64,
            rope_parameters=LLAMA3,
        ),
    ),
    Case(
        "LlamaForCausalLM",
        "llama2",
        "Llama 1 and 2: as many key heads as heads",
        made("LlamaConfig", num_key_value_heads=6, head_dim=16),
    ),
    Case(
        "LlamaForCausalLM",
        "llama-linear-tied",
        "linear scaling, tied, heads of 80",
        made(
            "LlamaConfig",
            hidden_size=80,
            num_attention_heads=4,
            head_dim=80,
            tie_word_embeddings=True,
            rope_parameters=LINEAR,
        ),
    ),
    Case(
        "LlamaForCausalLM",
        "llama-dynamic",
        "dynamic scaling",
        made("LlamaConfig", hidden_size=72, num_attention_heads=4, head_dim=32, rope_parameters=DYNAMIC),
    ),
    Case(
        "LlamaForCausalLM",
        "llama-yarn",
        "yarn, biases everywhere, heads of 128",
        made(
            "LlamaConfig",
            hidden_size=64,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=128,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters=YARN,
        ),
    ),
    Case(
        "LlamaForCausalLM",
        "falcon3",
        "Falcon 3: heads wider than hidden / heads, large base",
        made("LlamaConfig", head_dim=32, rope_parameters=rope(rope_theta=1000042.0)),
    ),
    Case(
        "LlamaForCausalLM",
        "smollm",
        "SmolLM 1 and 2: 3 heads a key head, tied",
        made("LlamaConfig", hidden_size=72, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True),
    ),
    Case(
        "MistralForCausalLM",
        "mistral",
        "a window shorter than the prompt",
        made("MistralConfig", num_attention_heads=8, head_dim=24, sliding_window=37),
    ),
    Case(
        "MistralForCausalLM",
        "mistral-plain",
        "Mistral 0.2 and later: no window, large base, tied",
        made(
            "MistralConfig",
            head_dim=32,
            sliding_window=None,
            tie_word_embeddings=True,
            rope_parameters=rope(rope_theta=1e6),
        ),
    ),
    Case(
        "MistralForCausalLM",
        "mistral-yarn",
        "yarn, one key head",
        made("MistralConfig", num_key_value_heads=1, sliding_window=None, rope_parameters=YARN),
    ),
    Case(
        "Qwen2ForCausalLM",
        "qwen2",
        "Qwen2.5: biases of q, k and v, 7 heads a key head, tied",
        made("Qwen2Config", hidden_size=112, num_attention_heads=14, tie_word_embeddings=True),
    ),
    Case(
        "Qwen2ForCausalLM",
        "qwen2-windows",
        "windows from layer 1, yarn",
        made("Qwen2Config", use_sliding_window=True, sliding_window=37, max_window_layers=1, rope_parameters=YARN),
    ),
    Case("Qwen2ForCausalLM", "qwen2-mha", "as many key heads as heads", made("Qwen2Config", num_key_value_heads=6)),
    Case(
        "Qwen3ForCausalLM",
        "qwen3",
        "norms of q and k, 3 heads a key head, tied",
        made("Qwen3Config", head_dim=32, tie_word_embeddings=True),
    ),
    Case(
        "Qwen3ForCausalLM",
        "qwen3-biases",
        "biases, windows from layer 1, yarn",
        made(
            "Qwen3Config",
            head_dim=16,
            attention_bias=True,
            use_sliding_window=True,
            sliding_window=37,
            max_window_layers=1,
            rope_parameters=YARN,
        ),
    ),
    Case(
        "Qwen3ForCausalLM",
        "qwen3-mha",
        "as many key heads as heads",
        made("Qwen3Config", head_dim=24, num_key_value_heads=6),
    ),
    Case("Olmo2ForCausalLM", "olmo2", "norms after, norms over all of q and k", made("Olmo2Config")),
    Case(
        "Olmo2ForCausalLM",
        "olmo2-biases",
        "biases, linear scaling, tied",
        made("Olmo2Config", attention_bias=True, tie_word_embeddings=True, rope_parameters=LINEAR),
    ),
    Case(
        "Olmo2ForCausalLM",
        "olmo2-mqa",
        "one key head, yarn",
        made("Olmo2Config", hidden_size=120, num_key_value_heads=1, rope_parameters=YARN),
    ),
    Case(
        "SmolLM3ForCausalLM",
        "smollm3",
        "every second layer without positions, tied",
        made("SmolLM3Config", num_hidden_layers=4, no_rope_layer_interval=2, pad_token_id=None),
    ),
    Case(
        "SmolLM3ForCausalLM",
        "smollm3-windows",
        "windows where there are no positions, biases",
        made(
            "SmolLM3Config",
            no_rope_layers=[0, 1],
            use_sliding_window=True,
            sliding_window=37,
            attention_bias=True,
            mlp_bias=True,
            pad_token_id=None,
        ),
    ),
    Case(
        "SmolLM3ForCausalLM",
        "smollm3-yarn",
        "yarn, untied",
        made("SmolLM3Config", tie_word_embeddings=False, rope_parameters=YARN, pad_token_id=None),
    ),
    Case("InternLM2ForCausalLM", "internlm2", "q, k and v fused by key head", save=_internlm2()),
    Case(
        "InternLM2ForCausalLM",
        "internlm2-dynamic",
        "dynamic scaling, biases",
        save=_internlm2(bias=True, rope_parameters=DYNAMIC),
    ),
    Case(
        "InternLM2ForCausalLM",
        "internlm2-tied",
        "tied, one key head",
        save=_internlm2(tie_word_embeddings=True, num_key_value_heads=1),
    ),
    Case(
        "GlmForCausalLM",
        "glm",
        "half of each head rotated in neighbours",
        made("GlmConfig", head_dim=32, pad_token_id=None),
    ),
    Case(
        "GlmForCausalLM",
        "glm-quarter",
        "a quarter rotated, no biases, tied",
        made(
            "GlmConfig",
            head_dim=16,
            attention_bias=False,
            tie_word_embeddings=True,
            pad_token_id=None,
            rope_parameters=rope(partial_rotary_factor=0.25),
        ),
    ),
    Case(
        "GlmForCausalLM",
        "glm-whole",
        "whole heads rotated, linear scaling",
        made("GlmConfig", head_dim=24, pad_token_id=None, rope_parameters=LINEAR | {"partial_rotary_factor": 1.0}),
    ),
    Case("Glm4ForCausalLM", "glm4", "norms before and after", made("Glm4Config", head_dim=32, pad_token_id=None)),
    Case(
        "Glm4ForCausalLM",
        "glm4-biased",
        "biases, one key head",
        made("Glm4Config", head_dim=16, attention_bias=True, num_key_value_heads=1, pad_token_id=None),
    ),
    Case(
        "Glm4ForCausalLM",
        "glm4-tied",
        "tied",
        made("Glm4Config", head_dim=24, tie_word_embeddings=True, pad_token_id=None),
    ),
)
