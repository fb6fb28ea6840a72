"""The configs of published models: what is read from them, in older spellings and in newer, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from heddle.compiler.driver import read_source
from heddle.compiler.quant import model_sites
from heddle.models import ARCHITECTURES, ModelError, architecture, match_weights
from heddle.models.decoder_config import DecoderConfig
from heddle.models.random_weights import RandomCheckpoint
from heddle.runtime.errors import HeddleError

from .published_base_configs import BASE, SMOLLM3
from .published_configs import LONG, MINISTRAL3_ROPE, PUBLISHED, SHORT

ALL = PUBLISHED | BASE
TEXT_1B = PUBLISHED["gemma-3-1b-it"]


def read(raw: dict[str, Any]) -> DecoderConfig:
    return architecture(raw).config(raw)


def refused(raw: dict[str, Any]) -> str:
    with pytest.raises(ModelError) as caught:
        read(raw)
    return str(caught.value)


def weights(raw: dict[str, Any]) -> dict[str, Any]:
    arch = architecture(raw)
    return arch.weights(arch.config(raw))


@pytest.mark.parametrize("name", [*ALL, "SmolLM3-3B"])
def test_published_configs_are_read(name: str) -> None:
    raw = ALL.get(name, SMOLLM3)
    config, text = read(raw), raw.get("text_config", raw)
    assert config.architecture == raw["architectures"][0]
    assert config.hidden_size == text["hidden_size"]
    assert config.num_layers == text["num_hidden_layers"] == len(config.windows) == len(config.ropes)
    assert config.checkpoint_dtype == raw["torch_dtype"]
    assert set(weights(raw))
    assert "did you mean" in refused(raw | {"hidden_sizes": 7})


@pytest.mark.parametrize("name", ALL)
def test_sites_stand_in_the_order_of_a_layer(name: str) -> None:
    """Also those that are cut out of fused projections: `heddle inspect` lists them so."""
    order = ["embed", *(f"layers.0.{site}" for site in ("attn.q", "attn.k", "attn.v", "attn.o"))]
    order += [*(f"layers.0.mlp.{site}" for site in ("gate", "up", "down")), "lm_head"]
    sites = [site for site in model_sites(weights(ALL[name])) if site in order]
    assert sites == [site for site in order if site in sites]


@pytest.mark.parametrize("name", ALL)
def test_weights_of_published_models_match(name: str) -> None:
    """Every name of the table stands for one tensor of a shape that a checkpoint can have."""
    raw = ALL[name]
    sizes = {"num_hidden_layers": 1, "vocab_size": 512, "intermediate_size": 64}
    small = raw | ({"text_config": raw["text_config"] | sizes} if "text_config" in raw else sizes)
    specs = weights(small)
    checkpoint = RandomCheckpoint(specs, 0, "bfloat16")
    assert set(match_weights(specs, checkpoint).names) == set(specs)
    for spec in specs.values():
        assert all(name in checkpoint.tensors for name in spec.tensors(spec.source[0]))


KNOWN_TO_TRANSFORMERS = [
    name
    for name, found in sorted(ARCHITECTURES.items())
    if found.model_type in transformers.CONFIG_MAPPING and not name.endswith("ConditionalGeneration")
]


@pytest.mark.parametrize("name", KNOWN_TO_TRANSFORMERS)
def test_absent_keys_mean_what_they_do_in_transformers(name: str) -> None:
    model_type = ARCHITECTURES[name].model_type
    sizes = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4}
    if model_type == "gpt2":
        sizes = {"vocab_size": 96, "n_embd": 64, "n_layer": 8, "n_head": 4}
    else:
        sizes |= {"intermediate_size": 80, "num_key_value_heads": 4}
    every = transformers.CONFIG_MAPPING[model_type](**sizes).to_json_string(use_diff=False)
    named = {"architectures": [name], "model_type": model_type}
    assert read(sizes | named) == read(json.loads(every) | named)


def test_gemma() -> None:
    two, nine, large = (read(PUBLISHED[name]) for name in ("gemma-2b", "gemma-2-9b-it", "gemma-2-27b"))
    assert two.activation == nine.activation == "gelu_tanh"
    assert two.tie_embeddings
    assert (two.embed_scale, large.embed_scale) == (45.25, float(np.float32(4608**0.5)))  # bfloat16, float32
    assert nine.windows[:4] == (4096, 0, 4096, 0)
    assert (nine.attention_softcap, nine.logit_softcap) == (50, 30)
    assert large.attention_scale == pytest.approx(144**-0.5)
    assert {spec.view.offset for param, spec in weights(PUBLISHED["gemma-2b"]).items() if "norm" in param} == {1.0}


def test_gemma3() -> None:
    small = read(TEXT_1B)
    assert small.windows == ((512,) * 5 + (0,)) * 4 + (512, 512)
    assert [rope.theta for rope in small.ropes[4:6]] == [1e4, 1e6]
    assert (small.qk_norm, small.attention_softcap, small.logit_softcap) == ("head", 0, 0)
    new = {key: value for key, value in TEXT_1B.items() if not key.startswith(("rope", "sliding_window_p", "torch"))}
    new |= {
        "dtype": "bfloat16",
        "_sliding_window_pattern": 6,
        "layer_types": ["sliding_attention" if i % 6 != 5 else "full_attention" for i in range(26)],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1000000},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000},
        },
        "use_bidirectional_attention": False,
    }
    assert read(new) == small
    assert 'rope_parameters" has "rope_type"' in refused(new | {"rope_parameters": {"rope_type": "default"}})
    assert '"full_attention" is 3' in refused(new | {"rope_parameters": {"full_attention": 3}}).replace(".", '" "')
    wrong = new["rope_parameters"] | {"full_attention": {"rope_type": "linear"}}
    assert '"rope_parameters.full_attention.factor" is missing' in refused(new | {"rope_parameters": wrong})


def test_text_part_of_gemma3_with_vision() -> None:
    raw = PUBLISHED["gemma-3-4b-it"]
    config = read(raw)
    assert (config.vocab_size, config.num_heads, config.num_kv_heads, config.head_dim) == (262208, 8, 4, 256)
    assert (config.ropes[0].type, config.ropes[5].type, config.ropes[5].factor) == ("default", "linear", 8.0)
    specs = weights(raw)
    for prefix in ("language_model.model.", "model.language_model.", "model.", "language_model."):
        assert f"{prefix}layers.3.mlp.up_proj.weight" in specs["layers.3.mlp.up.weight"].source
    text = refused(raw | {"text_config": raw["text_config"] | {"hidden_size": "x"}, "vision": 1})
    assert '"hidden_size" is "x"' in text
    assert 'unknown config key "vision"' in text
    assert '"text_config" is missing' in refused({key: raw[key] for key in raw if key != "text_config"})
    assert '"text_config.model_type" is "gemma3n"' in refused(raw | {"text_config": {"model_type": "gemma3n"}})


def test_vision_towers_are_passed_over() -> None:
    raw = PUBLISHED["gemma-3-4b-it"]
    raw = raw | {"text_config": raw["text_config"] | {"num_hidden_layers": 1, "vocab_size": 64, "intermediate_size": 8}}
    arch, specs = architecture(raw), weights(raw)
    checkpoint = RandomCheckpoint(specs, 0, "float32")
    for name in (
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "multi_modal_projector.mm_soft_emb_norm.weight",
    ):
        checkpoint.tensors[name] = checkpoint.tensors[specs["norm.weight"].source[0]]
    match = match_weights(specs, checkpoint, ignored=arch.ignored)
    assert any("2 tensors are not needed" in note for note in match.notes)


def test_phi3() -> None:
    mini, long, four, large = (
        read(PUBLISHED[name])
        for name in ("Phi-3-mini-4k-instruct", "Phi-3-mini-128k-instruct", "Phi-4-mini-instruct", "phi-4")
    )
    assert (mini.windows[0], long.windows[0], large.windows[0]) == (2047, 0, 0)
    assert (mini.ropes[0].type, long.ropes[0].type) == ("default", "longrope")
    assert (four.ropes[0].dim, four.head_dim) == (96, 128)
    np.testing.assert_allclose(1 / long.ropes[0].inv_freq()[:2], [LONG[0], LONG[1] * 10000 ** (2 / 96)], rtol=1e-6)
    assert long.ropes[0].scale() == pytest.approx((1 + np.log(32) / np.log(4096)) ** 0.5)
    newer = PUBLISHED["Phi-3-mini-128k-instruct"] | {
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "rope_theta": 10000.0},
    }
    assert read(newer) == long


def test_a_shorter_context_chooses_the_short_factors(tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "num_hidden_layers": 1, "intermediate_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["Phi-3-mini-128k-instruct"] | sizes))
    model = read_source(tmp_path, random_weights=0)
    long = model.config.ropes[0]
    model.shorten(4096)
    short = model.config.ropes[0]
    assert model.config.context_length == 4096
    np.testing.assert_allclose(1 / short.inv_freq()[0], SHORT[0], rtol=1e-6)
    assert short.scale() == long.scale()
    for length in (0, 4097):
        with pytest.raises(HeddleError, match="give 1 to 4096"):
            model.shorten(length)


def test_scaled_families() -> None:
    granite = read(PUBLISHED["granite-3.1-2b-instruct"])
    assert (granite.embed_scale, granite.attention_scale, granite.residual_scale) == (12, 0.015625, 0.22)
    assert granite.logit_scale == 0.125
    first, fourth = read(PUBLISHED["MiniCPM-2B"]), read(PUBLISHED["MiniCPM4-8B"])
    assert (first.tie_embeddings, fourth.tie_embeddings) == (True, False)
    assert (first.embed_scale, first.logit_scale) == (12, 256 / 2304)
    assert fourth.residual_scale == pytest.approx(1.4 / 32**0.5)
    assert "sparse_config" in refused(PUBLISHED["MiniCPM4-8B"] | {"sparse_config": {"topk": 64}})


def test_cohere() -> None:
    plain, plus, second = (
        read(PUBLISHED[name]) for name in ("c4ai-command-r-v01", "c4ai-command-r-plus", "c4ai-command-r7b-12-2024")
    )
    assert (plain.parallel, plain.rope_interleaved, plain.norms) == (True, True, ("attn_norm",))
    assert (plain.qk_norm, plus.qk_norm) == ("", "heads")
    spec = weights(PUBLISHED["c4ai-command-r-plus"])["layers.0.attn.k_norm.weight"]
    assert (spec.shape, spec.stored_shape) == ((8 * 128,), (8, 128))
    assert second.windows[:5] == (4096, 4096, 4096, 0, 4096)
    assert [rope is None for rope in second.ropes[:4]] == [False, False, False, True]
    for key, value in (("use_gated_activation", False), ("rotary_pct", 0.5), ("position_embedding_type", "alibi")):
        assert key in refused(PUBLISHED["c4ai-command-r7b-12-2024"] | {key: value})


def test_stablelm() -> None:
    small, large = read(PUBLISHED["stablelm-2-1_6b"]), read(PUBLISHED["stablelm-2-12b"])
    assert (small.ropes[0].dim, small.qkv_bias, small.parallel) == (16, True, False)
    assert (large.qk_norm, large.norms, large.norm_bias) == ("heads", ("attn_norm",), True)
    spec = weights(PUBLISHED["stablelm-2-12b"])["layers.1.attn.k_norm.weight"]
    names = spec.tensors(spec.source[0])
    assert (len(names), names[7]) == (8, "model.layers.1.self_attn.k_layernorm.norms.7.weight")
    assert (spec.shape, spec.stored_shape) == ((8 * 160,), (160,))


def test_a_missing_piece_is_named() -> None:
    raw = PUBLISHED["stablelm-2-12b"] | {"num_hidden_layers": 1, "vocab_size": 64, "intermediate_size": 8}
    specs = weights(raw)
    checkpoint = RandomCheckpoint(specs, 0, "float32")
    del checkpoint.tensors["model.layers.0.self_attn.q_layernorm.norms.3.weight"]
    with pytest.raises(ModelError, match=r'missing weight "model.layers.0.self_attn.q_layernorm.norms.3.weight"'):
        match_weights(specs, checkpoint)


def test_mistral_inside_a_model_with_vision() -> None:
    text = {
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 262144,
        "model_type": "ministral3",
        "num_attention_heads": 32,
        "num_hidden_layers": 34,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_parameters": MINISTRAL3_ROPE,
        "sliding_window": None,
        "vocab_size": 131072,
    }
    raw = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "dtype": "bfloat16",
        "image_token_index": 10,
        "model_type": "mistral3",
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "text_config": text,
        "vision_config": {"model_type": "pixtral"},
        "vision_feature_layer": -1,
    }
    config = read(raw)
    assert (config.query_beta, config.query_steps, config.ropes[0].type) == (0.1, 16384, "yarn")
    assert (config.ropes[0].scale(), config.checkpoint_dtype) == (1.0, "bfloat16")
    older = {key: value for key, value in text.items() if key != "rope_parameters"}
    older |= {"model_type": "mistral", "rope_theta": 1000000000.0}
    assert read(raw | {"text_config": older}).ropes[0].theta == 1e9
    assert 'unknown rope parameter "gamma"' in refused(
        raw | {"text_config": text | {"rope_parameters": MINISTRAL3_ROPE | {"gamma": 1}}}
    )


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("gemma-2b", {"use_bidirectional_attention": True}, '"use_bidirectional_attention" is true'),
        ("gemma-2b", {"hidden_act": "quick_gelu"}, '"hidden_act" is "quick_gelu"'),
        ("gemma-2b", {"hidden_activation": "relu"}, '"hidden_activation" is "relu"'),
        ("gemma-2-9b-it", {"sliding_window_size": 17}, '"sliding_window_size" is 17'),
        (
            "gemma-2-9b-it",
            {"sliding_window": None, "sliding_window_size": None},
            "this family has layers with a window",
        ),
        ("gemma-3-1b-it", {"attn_logit_softcapping": 50.0}, '"attn_logit_softcapping" is 50.0'),
        ("gemma-3-1b-it", {"use_bidirectional_attention": True}, "supported: false"),
        ("gemma-3-1b-it", {"rope_scaling": {"rope_type": "linear"}}, '"rope_scaling.factor" is missing'),
        ("c4ai-command-r7b-12-2024", {"layer_types": ["full_attention"]}, '"layer_types" lists 1 layers'),
        ("Phi-3-mini-4k-instruct", {"lm_head_bias": True}, '"lm_head_bias" is true'),
        ("Phi-4-mini-instruct", {"partial_rotary_factor": 1.0}, "short_factor has 48 numbers"),
        ("stablelm-2-1_6b", {"hidden_act": "xielu"}, '"hidden_act" is "xielu"'),
        ("MiniCPM-2B", {"hidden_act": "fatrelu"}, '"hidden_act" is "fatrelu"'),
        ("MiniCPM-2B", {"num_experts": 8}, 'unknown config key "num_experts"'),
    ],
)
def test_what_is_not_supported_is_refused(name: str, changes: dict[str, Any], expected: str) -> None:
    assert expected in refused(PUBLISHED[name] | changes)
