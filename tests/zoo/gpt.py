"""GPT-2 and the families with LayerNorm and plain MLPs that came after it."""

from __future__ import annotations

from .case import SIZES, Case, made, rope

GPT2 = {"n_embd": 96, "n_head": 6, "n_layer": 2, "n_positions": 256}
LINEAR = rope(rope_type="linear", factor=2.0)
YARN = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)


def _gpt2(**options: object) -> object:
    def config() -> object:
        import transformers

        return transformers.GPT2Config(**(GPT2 | {"vocab_size": SIZES["vocab_size"]} | options))

    return config


CASES = (
    Case("GPT2LMHeadModel", "gpt2", "learned positions, transposed and fused matrices", _gpt2()),
    Case(
        "GPT2LMHeadModel", "gpt2-untied", "a head of its own, an odd MLP", _gpt2(n_inner=172, tie_word_embeddings=False)
    ),
    Case("GPT2LMHeadModel", "gpt2-gelu", "gelu by erf, 4 heads", _gpt2(n_head=4, activation_function="gelu")),
    Case(
        "GPTNeoXForCausalLM",
        "pythia",
        "parallel residual, a quarter of each head rotated",
        made("GPTNeoXConfig", hidden_size=192, num_key_value_heads=6),
    ),
    Case(
        "GPTNeoXForCausalLM",
        "neox-serial",
        "one after the other, half rotated, linear scaling",
        made(
            "GPTNeoXConfig",
            num_key_value_heads=6,
            use_parallel_residual=False,
            rope_parameters=LINEAR | {"partial_rotary_factor": 0.5},
        ),
    ),
    Case(
        "GPTNeoXForCausalLM",
        "neox-tied",
        "no attention biases, whole heads, tied",
        made(
            "GPTNeoXConfig",
            num_key_value_heads=6,
            attention_bias=False,
            tie_word_embeddings=True,
            rope_parameters=rope(partial_rotary_factor=1.0),
        ),
    ),
    Case("Starcoder2ForCausalLM", "starcoder2", "biases, tied", made("Starcoder2Config")),
    Case(
        "Starcoder2ForCausalLM",
        "starcoder2-window",
        "a window, yarn",
        made("Starcoder2Config", sliding_window=37, rope_parameters=YARN),
    ),
    Case(
        "Starcoder2ForCausalLM",
        "starcoder2-plain",
        "no biases, untied",
        made("Starcoder2Config", use_bias=False, tie_word_embeddings=False, num_key_value_heads=1),
    ),
    Case("PhiForCausalLM", "phi2", "one norm, biases and a biased head", made("PhiConfig", num_key_value_heads=6)),
    Case(
        "PhiForCausalLM",
        "phi-gqa",
        "3 heads a key head, a quarter rotated",
        made("PhiConfig", hidden_size=192, rope_parameters=rope(partial_rotary_factor=0.25)),
    ),
    Case(
        "PhiForCausalLM",
        "phi-gelu",
        "gelu by erf, one key head",
        made("PhiConfig", hidden_act="gelu", num_key_value_heads=1),
    ),
)
