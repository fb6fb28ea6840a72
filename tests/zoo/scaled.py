"""Families that scale, fuse or rotate part of a Llama: Phi-3, Granite, MiniCPM, Cohere, StableLM, Ministral."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.model_tools import save_random

from .case import Case, made, rope

ORIGINAL = 64


GROWING = rope(
    rope_type="yarn",
    factor=4.0,
    original_max_position_embeddings=20,
    mscale=1.0,
    mscale_all_dim=1.0,
    llama_4_scaling_beta=0.3,
)


def vision(kind: str, **options: Any) -> Callable[[Path], Path]:
    """What writes a language model inside one with a vision tower; transformers has no causal model of the whole."""

    def save(path: Path) -> Path:
        import transformers

        reference = path.with_name("reference")
        config = made(f"{kind}Config", **options)()
        save_random(reference, config)
        text = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(reference)
        sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
        tower = transformers.PixtralVisionConfig(**sizes, head_dim=16, image_size=28, patch_size=14)
        tied = options.get("tie_word_embeddings", False)
        whole = transformers.Mistral3Config(text_config=config, vision_config=tower, tie_word_embeddings=tied)
        model = transformers.Mistral3ForConditionalGeneration(whole)
        model.model.language_model.load_state_dict(text.model.state_dict())
        model.lm_head.load_state_dict(text.lm_head.state_dict())
        model.save_pretrained(path)
        return reference

    return save


def longrope(pairs: int, **values: Any) -> dict[str, Any]:
    """LongRoPE with two different lists of factors for `pairs` of dimensions."""
    factors = {"short_factor": np.linspace(1, 1.5, pairs).tolist(), "long_factor": np.linspace(1, 9, pairs).tolist()}
    return rope(rope_type="longrope", **(factors | values))


def phi3(**options: Any) -> Callable[[], Any]:
    """A Phi-3 without a padding token, whose usual id is beyond a small vocabulary."""
    return made("Phi3Config", pad_token_id=None, **options)


def _long_phi3(path: Path) -> Path:
    """A context beyond that of pretraining: sequences within it are rotated by the long factors too, unlike in transformers."""
    given = longrope(6, partial_rotary_factor=0.75)
    sizes = {"original_max_position_embeddings": ORIGINAL, "rope_parameters": given, "tie_word_embeddings": True}
    save_random(path, phi3(**sizes)())
    other = path.with_name("reference")
    other.mkdir()
    for file in path.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    raw = json.loads((path / "config.json").read_text())
    raw["rope_parameters"]["short_factor"] = given["long_factor"]
    (other / "config.json").write_text(json.dumps(raw))
    return other


def minicpm(**options: Any) -> Callable[[Path], Path]:
    """What writes a MiniCPM, and a Llama whose weights are scaled as MiniCPM scales activations."""
    scales = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 32}

    def save(path: Path) -> Path:
        import torch
        from transformers import LlamaForCausalLM

        save_random(path, made("LlamaConfig", **options)())
        raw = json.loads((path / "config.json").read_text())
        model = LlamaForCausalLM.from_pretrained(path)
        hidden, layers = raw["hidden_size"], raw["num_hidden_layers"]
        with torch.no_grad():
            head = model.lm_head.weight * (scales["dim_model_base"] / hidden)
            model.config.tie_word_embeddings = False
            model.model.embed_tokens.weight.mul_(scales["scale_emb"])
            model.lm_head.weight = torch.nn.Parameter(head)
            for layer in model.model.layers:
                for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                    linear.weight.mul_(scales["scale_depth"] / math.sqrt(layers))
        model.save_pretrained(path.with_name("reference"))
        raw |= {"architectures": ["MiniCPMForCausalLM"], "model_type": "minicpm", **scales}
        (path / "config.json").write_text(json.dumps(raw))
        return path.with_name("reference")

    return save


CASES = (
    Case(
        "Phi3ForCausalLM",
        "phi4-mini",
        "fused projections, three quarters of each head rotated, long factors, tied",
        save=_long_phi3,
    ),
    Case("Phi3ForCausalLM", "phi3-window", "a window, untied", phi3(sliding_window=37)),
    Case(
        "Phi3ForCausalLM",
        "phi3-short",
        "short factors, an attention factor, as many key heads as heads",
        phi3(
            num_key_value_heads=6,
            original_max_position_embeddings=256,
            rope_parameters=longrope(8, attention_factor=1.3),
        ),
    ),
    Case(
        "GraniteForCausalLM",
        "granite",
        "four multipliers, tied",
        made(
            "GraniteConfig",
            embedding_multiplier=12.0,
            attention_multiplier=0.2,
            residual_multiplier=0.22,
            logits_scaling=8.0,
            tie_word_embeddings=True,
        ),
    ),
    Case(
        "GraniteForCausalLM",
        "granite-biases",
        "biases, no scaling but of scores, untied",
        made("GraniteConfig", attention_multiplier=0.3, attention_bias=True, mlp_bias=True),
    ),
    Case(
        "GraniteForCausalLM",
        "granite-yarn",
        "yarn, as many key heads as heads",
        made(
            "GraniteConfig",
            attention_multiplier=0.25,
            residual_multiplier=0.5,
            num_key_value_heads=6,
            rope_parameters=rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=ORIGINAL),
        ),
    ),
    Case(
        "MiniCPMForCausalLM",
        "minicpm",
        "scaled embeddings, residuals and logits, tied",
        save=minicpm(tie_word_embeddings=True, num_key_value_heads=6),
    ),
    Case("MiniCPMForCausalLM", "minicpm-untied", "untied, 3 heads a key head", save=minicpm()),
    Case(
        "MiniCPMForCausalLM",
        "minicpm4",
        "short factors, a head size of its own",
        save=minicpm(head_dim=32, rope_parameters=longrope(16, original_max_position_embeddings=256)),
    ),
    Case(
        "CohereForCausalLM",
        "command-r-plus",
        "norms of q and k by head",
        made("CohereConfig", use_qk_norm=True, logit_scale=0.8, rope_parameters=rope(rope_theta=8e6)),
    ),
    Case("CohereForCausalLM", "command-r", "parallel, interleaved rotation, tied", made("CohereConfig")),
    Case(
        "CohereForCausalLM",
        "command-r-biased",
        "biases, untied, linear scaling",
        made(
            "CohereConfig",
            attention_bias=True,
            tie_word_embeddings=False,
            rope_parameters=rope(rope_type="linear", factor=3.0),
        ),
    ),
    Case(
        "Cohere2ForCausalLM",
        "command-r7b",
        "windows with positions, then a layer without either",
        made("Cohere2Config", sliding_window=37, layer_types=["sliding_attention", "full_attention"], logit_scale=0.25),
        slow=True,
    ),
    Case(
        "Cohere2ForCausalLM",
        "cohere2-defaults",
        "5 layers, the fourth without a window",
        made("Cohere2Config", num_hidden_layers=5, sliding_window=21),
    ),
    Case(
        "Cohere2ForCausalLM",
        "cohere2-biased",
        "biases, untied, as many key heads as heads",
        made("Cohere2Config", attention_bias=True, tie_word_embeddings=False, num_key_value_heads=None),
    ),
    Case(
        "StableLmForCausalLM",
        "stablelm-12b",
        "side by side, norms of q and k by head",
        made("StableLmConfig", hidden_size=192, use_parallel_residual=True, qk_layernorm=True),
    ),
    Case(
        "StableLmForCausalLM",
        "stablelm",
        "LayerNorm, a quarter of each head rotated, biases of q, k and v",
        made("StableLmConfig", hidden_size=192, use_qkv_bias=True),
    ),
    Case(
        "StableLmForCausalLM",
        "stablelm-tied",
        "half of each head rotated, dynamic scaling, tied",
        made(
            "StableLmConfig",
            tie_word_embeddings=True,
            qk_layernorm=True,
            rope_parameters=rope(rope_type="dynamic", factor=2.0, partial_rotary_factor=0.5),
        ),
    ),
    Case(
        "MinistralForCausalLM",
        "ministral",
        "a window in one layer of two",
        made("MinistralConfig", head_dim=24, sliding_window=37, layer_types=["full_attention", "sliding_attention"]),
        slow=True,
    ),
    Case(
        "MinistralForCausalLM",
        "ministral-windows",
        "windows everywhere, tied",
        made("MinistralConfig", head_dim=16, sliding_window=21, tie_word_embeddings=True),
    ),
    Case(
        "MinistralForCausalLM",
        "ministral-yarn",
        "windows everywhere, yarn",
        made(
            "MinistralConfig",
            head_dim=32,
            sliding_window=50,
            rope_parameters=rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=ORIGINAL),
        ),
    ),
    Case(
        "Ministral3ForCausalLM",
        "ministral3",
        "queries that grow with their position, yarn",
        made("Ministral3Config", head_dim=24, rope_parameters=GROWING),
    ),
    Case(
        "Ministral3ForCausalLM",
        "ministral3-window",
        "a window, tied",
        made("Ministral3Config", head_dim=32, sliding_window=37, tie_word_embeddings=True, rope_parameters=GROWING),
    ),
    Case(
        "Ministral3ForCausalLM",
        "ministral3-mha",
        "as many key heads as heads, queries do not grow",
        made(
            "Ministral3Config",
            head_dim=16,
            num_key_value_heads=6,
            rope_parameters=GROWING | {"llama_4_scaling_beta": 0.0},
        ),
    ),
    Case(
        "Mistral3ForConditionalGeneration",
        "ministral3-vision",
        "the text part of a model with a vision tower",
        save=vision("Ministral3", head_dim=16, rope_parameters=GROWING),
        slow=True,
    ),
    Case(
        "Mistral3ForConditionalGeneration",
        "ministral3-vision-tied",
        "tied, as many key heads as heads",
        save=vision(
            "Ministral3", head_dim=24, num_key_value_heads=6, tie_word_embeddings=True, rope_parameters=GROWING
        ),
    ),
    Case(
        "Mistral3ForConditionalGeneration",
        "mistral-small-vision",
        "a Mistral in it, with a window",
        save=vision("Mistral", head_dim=32, sliding_window=37),
    ),
)
