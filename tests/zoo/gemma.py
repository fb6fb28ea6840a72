"""Gemma 1 to 3, with and without a vision tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .case import Case, made, rope

LOCAL = rope(rope_theta=300.0)
PATTERN = ["full_attention", "sliding_attention"]


def vision(**options: Any) -> Callable[[], Any]:
    """What makes the config of a Gemma 3 with a vision tower around a language model with these options."""

    def config() -> Any:
        import transformers

        sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
        return transformers.Gemma3Config(
            text_config=made("Gemma3TextConfig", sliding_window=37, **options)(),
            vision_config=transformers.SiglipVisionConfig(**sizes, image_size=28, patch_size=14),
            mm_tokens_per_image=4,
            tie_word_embeddings=options.get("tie_word_embeddings", True),
        )

    return config


CASES = (
    Case(
        "GemmaForCausalLM",
        "gemma",
        "scaled embeddings, 1 + w norms, tied",
        made("GemmaConfig", head_dim=24),
        slow=True,
    ),
    Case(
        "GemmaForCausalLM",
        "gemma-mqa",
        "one key head of 256 dimensions, untied",
        made("GemmaConfig", head_dim=256, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False),
    ),
    Case(
        "GemmaForCausalLM",
        "gemma-biased",
        "biases, linear scaling",
        made("GemmaConfig", head_dim=32, attention_bias=True, rope_parameters=rope(rope_type="linear", factor=2.0)),
    ),
    Case(
        "Gemma2ForCausalLM",
        "gemma2",
        "soft caps, a window in the first layer, four norms a layer",
        made(
            "Gemma2Config",
            head_dim=24,
            query_pre_attn_scalar=20,
            sliding_window=37,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=3.0,
        ),
    ),
    Case(
        "Gemma2ForCausalLM",
        "gemma2-uncapped",
        "no caps, untied, windows listed",
        made(
            "Gemma2Config",
            head_dim=16,
            sliding_window=21,
            layer_types=PATTERN,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            tie_word_embeddings=False,
        ),
    ),
    Case(
        "Gemma2ForCausalLM",
        "gemma2-yarn",
        "biases, yarn",
        made(
            "Gemma2Config",
            head_dim=32,
            attention_bias=True,
            rope_parameters=rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
        ),
    ),
    Case(
        "Gemma3ForCausalLM",
        "gemma3",
        "norms of q and k, two rotary bases, linear scaling of one",
        made(
            "Gemma3TextConfig",
            head_dim=24,
            query_pre_attn_scalar=20,
            sliding_window=37,
            layer_types=PATTERN,
            rope_parameters={
                "full_attention": rope(rope_theta=1e6, rope_type="linear", factor=8.0),
                "sliding_attention": LOCAL,
            },
        ),
    ),
    Case(
        "Gemma3ForCausalLM",
        "gemma3-defaults",
        "7 layers, the sixth without a window",
        made("Gemma3TextConfig", head_dim=16, num_hidden_layers=7, sliding_window=11),
    ),
    Case(
        "Gemma3ForCausalLM",
        "gemma3-capped",
        "capped logits, untied, biases, yarn",
        made(
            "Gemma3TextConfig",
            head_dim=32,
            layer_types=PATTERN,
            final_logit_softcapping=4.0,
            tie_word_embeddings=False,
            attention_bias=True,
            rope_parameters={
                "full_attention": rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
                "sliding_attention": LOCAL,
            },
        ),
    ),
    Case(
        "Gemma3ForConditionalGeneration",
        "gemma3-vision",
        "the text part of a model with a vision tower, tied",
        vision(head_dim=16),
        slow=True,
    ),
    Case(
        "Gemma3ForConditionalGeneration",
        "gemma3-vision-untied",
        "untied, as many key heads as heads",
        vision(head_dim=24, num_key_value_heads=6, tie_word_embeddings=False, layer_types=PATTERN),
    ),
    Case(
        "Gemma3ForConditionalGeneration",
        "gemma3-vision-linear",
        "linear scaling where there is no window",
        vision(
            head_dim=32,
            layer_types=PATTERN,
            rope_parameters={
                "full_attention": rope(rope_theta=1e6, rope_type="linear", factor=8.0),
                "sliding_attention": LOCAL,
            },
        ),
    ),
)
