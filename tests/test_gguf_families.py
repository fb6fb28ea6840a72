"""Every family of GGUF: files written as llama.cpp's conversion writes them come back as transformers' config and tensors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import transformers
from gguf import MODEL_ARCH_NAMES

from heddle.models import ModelError, architecture, match_weights
from heddle.models.readers.gguf import GgufSource
from heddle.models.readers.gguf.families import FAMILIES
from heddle.models.registry import ARCHITECTURES
from heddle.models.weights import Parameters
from tests.gguf_cases import CASES, KV, RMS, SMALL, A, LlamaSizes, gpt2, norms_plus_one, permuted, reference, written
from tests.gguf_tools import T, converted, llama_metadata, write_gguf

BOOKKEEPING = {
    "cls_token_id",
    "sep_token_id",
    "dtype",
    "architectures",
    "transformers_version",
    "_name_or_path",
    "max_window_layers",
}


def test_every_family_has_a_case() -> None:
    tested = {MODEL_ARCH_NAMES[case.arch] for case in CASES.values()}
    assert set(FAMILIES) - tested == {"internlm2", "minicpm"}  # not in transformers


@pytest.mark.parametrize("name", CASES)
def test_config_and_tensors_come_back(name: str, tmp_path: Path) -> None:
    config, tensors = reference(name)
    source = GgufSource(written(tmp_path, name))
    raw = source.config()
    found = transformers.AutoConfig.for_model(**raw)
    expected, actual = config.to_dict(), found.to_dict()
    assert {k: v for k, v in actual.items() if k not in BOOKKEEPING} == {
        k: v for k, v in expected.items() if k not in BOOKKEEPING
    }
    checkpoint = source.checkpoint()
    assert set(checkpoint.tensors) == set(tensors)
    exact = CASES[name].change is not norms_plus_one
    for key, expected_values in tensors.items():
        values = checkpoint.read(key)
        info = checkpoint.tensors[key]
        assert (info.dtype, info.shape, info.quant) == ("float32", expected_values.shape, None), key
        if exact or not key.endswith("norm.weight"):
            assert np.array_equal(values, expected_values), key
        else:
            assert np.array_equal(values + np.float32(1), expected_values + np.float32(1)), key


@pytest.mark.parametrize("name", CASES)
def test_our_families_read_it_as_the_original(name: str, tmp_path: Path) -> None:
    config, _ = reference(name)
    source = GgufSource(written(tmp_path, name))
    raw = source.config()
    assert raw["architectures"][0] in ARCHITECTURES, "the family is missing"
    family = architecture(raw)
    original = {k: v for k, v in config.to_diff_dict().items() if v is not None} | {
        "architectures": raw["architectures"]
    }
    mine, theirs = family.config(raw), family.config(original)
    assert dataclasses.replace(mine, checkpoint_dtype="") == dataclasses.replace(theirs, checkpoint_dtype="")
    match = match_weights(family.weights(mine), source.checkpoint(), ignored=family.ignored)
    assert match.names


def test_llama3_frequencies_are_recognised(tmp_path: Path) -> None:
    given = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0}
    given |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = transformers.AutoConfig.for_model("llama", **SMALL)
    factors = []
    for frequency in 1 / 500000.0 ** (np.arange(0, 64, 2) / 64):  # as llama.cpp's conversion has it
        turns = 8192 / (2 * np.pi / frequency)
        smooth = (turns - 1.0) / (4.0 - 1.0)
        factors.append(1.0 if turns > 4 else 32.0 if turns < 1 else 1 / ((1 - smooth) / 32.0 + smooth))
    metadata = llama_metadata(config, **RMS, **{"attention.key_length": 64, "attention.value_length": 64})
    metadata |= {"rope.freq_base": 500000.0, "rope.dimension_count": 64}
    table = {"token_embd.weight": np.ones((48, 32), np.float32)}
    path = write_gguf(tmp_path / "a.gguf", "llama", metadata, {**table, "rope_freqs.weight": np.float32(factors)})
    assert GgufSource(path).config()["rope_parameters"] == given
    assert "rope_freqs.weight" not in GgufSource(path).checkpoint().tensors
    other = np.linspace(1, 3, 32, dtype=np.float32)
    path = write_gguf(tmp_path / "b.gguf", "llama", metadata, {**table, "rope_freqs.weight": other})
    rope = GgufSource(path).config()["rope_parameters"]
    assert (rope["rope_type"], rope["attention_factor"]) == ("longrope", 1.0)
    assert np.array_equal(np.float32(rope["short_factor"]), other)
    assert rope["short_factor"] == rope["long_factor"]
    metadata["rope.scaling.factor"] = 2.0
    path = write_gguf(tmp_path / "c.gguf", "llama", metadata, {**table, "rope_freqs.weight": other})
    with pytest.raises(ModelError, match="scaled twice, by rope_freqs.weight and as linear by 2.0"):
        GgufSource(path).config()
    metadata["rope.scaling.attn_factor"] = 1.5
    with pytest.raises(ModelError, match='rope scaling "linear" with attn_factor'):
        GgufSource(write_gguf(tmp_path / "d.gguf", "llama", metadata, table)).config()


def test_longrope_factors_of_phi3(tmp_path: Path) -> None:
    short, long = np.linspace(1, 2, 4, dtype=np.float32), np.linspace(1, 9, 4, dtype=np.float32)
    config, _ = reference("phi3")
    metadata = llama_metadata(config, **CASES["phi3"].metadata)
    metadata |= {"context_length": 1024, "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(8) / np.log(128)))}
    tensors = {"token_embd.weight": np.ones((48, 32), np.float32)}
    tensors |= {"rope_factors_short.weight": short, "rope_factors_long.weight": long}
    raw = GgufSource(write_gguf(tmp_path / "a.gguf", "phi3", metadata, tensors)).config()
    rope = raw["rope_parameters"]
    assert rope["rope_type"] == "longrope"
    assert np.array_equal(np.float32(rope["long_factor"]), long)
    assert "attention_factor" not in rope  # it is the usual one
    assert raw["original_max_position_embeddings"] == rope["original_max_position_embeddings"] == 128
    metadata["rope.scaling.attn_factor"] = 1.5
    raw = GgufSource(write_gguf(tmp_path / "b.gguf", "phi3", metadata, tensors)).config()
    assert raw["rope_parameters"]["attention_factor"] == 1.5


def test_minicpm_and_internlm2(tmp_path: Path) -> None:
    config, tensors = reference("llama")
    stored = converted(A.LLAMA, tensors, 3, lambda n, a: permuted(n, a, config))
    metadata = llama_metadata(config, **RMS, **KV)
    raw = GgufSource(write_gguf(tmp_path / "i.gguf", "internlm2", metadata, stored)).config()
    assert raw["architectures"] == ["LlamaForCausalLM"]
    checkpoint = GgufSource(tmp_path / "i.gguf").checkpoint()
    assert all(np.array_equal(checkpoint.read(name), array) for name, array in tensors.items())
    scales = {"embedding_scale": 12.0, "residual_scale": 1.4 / 3**0.5, "logit_scale": 32 / 16}
    raw = GgufSource(write_gguf(tmp_path / "m.gguf", "minicpm", metadata | scales, stored)).config()
    assert (raw["scale_emb"], raw["scale_depth"], raw["dim_model_base"]) == (12.0, 1.4, 16.0)
    assert architecture(raw).config(raw).logit_scale == 0.5
    raw = GgufSource(write_gguf(tmp_path / "n.gguf", "minicpm", metadata, stored)).config()
    assert (raw["scale_emb"], raw["scale_depth"], raw["dim_model_base"]) == (12.0, 1.4, 256.0)
    checkpoint = GgufSource(tmp_path / "m.gguf").checkpoint()
    assert all(np.array_equal(checkpoint.read(name), array) for name, array in tensors.items())


def test_fused_projections_are_taken_apart(tmp_path: Path) -> None:
    config, tensors = reference("chatglm")
    stored = converted(A.CHATGLM, tensors, 3, lambda n, a: a)
    for layer in range(3):
        for suffix in ("weight", "bias"):
            parts = [stored.pop(f"blk.{layer}.attn_{x}.{suffix}") for x in "qkv"]
            stored[f"blk.{layer}.attn_qkv.{suffix}"] = np.concatenate(parts)
    metadata = llama_metadata(config, **CASES["chatglm"].metadata)
    checkpoint = GgufSource(write_gguf(tmp_path / "a.gguf", "chatglm", metadata, stored)).checkpoint()
    assert set(checkpoint.tensors) == set(tensors)
    assert all(np.array_equal(checkpoint.read(name), array) for name, array in tensors.items())


def test_codes_of_gpt2_are_kept(tmp_path: Path) -> None:
    """Its matrices are stored transposed by transformers, and not in GGUF: the parameters get the codes as they are."""
    config, tensors = reference("gpt2")
    stored = converted(A.GPT2, tensors, 3, lambda n, a: gpt2(n, a, config))
    metadata = llama_metadata(LlamaSizes(config), **CASES["gpt2"].metadata)
    path = write_gguf(tmp_path / "a.gguf", "gpt2", metadata, stored, lambda n, a: T.Q8_0 if a.ndim == 2 else T.F32)
    source = GgufSource(path)
    raw, checkpoint = source.config(), source.checkpoint()
    family = architecture(raw)
    specs = family.weights(family.config(raw))
    parameters = Parameters(specs, match_weights(specs, checkpoint, ignored=family.ignored).names, checkpoint)
    for param in ("layers.1.attn.k.weight", "layers.1.mlp.down.weight", "embed.weight"):
        info = parameters.info(param)
        assert info.quant is not None
        assert info.quant.label == "Q8_0"
        assert np.array_equal(parameters.read_quantized(param).dequantize(), parameters.read(param))
    assert parameters.info("positions.weight").quant is None


def test_norms_by_head_of_stablelm(tmp_path: Path) -> None:
    config, tensors = reference("stablelm")
    stored = converted(A.STABLELM, tensors, 3, lambda n, a: a)
    norms = np.arange(32, dtype=np.float32).reshape(4, 8)
    stored |= {f"blk.{i}.attn_q_norm.weight": norms for i in range(3)}
    stored |= {f"blk.{i}.attn_k_norm.weight": norms[:2] for i in range(3)}
    metadata = llama_metadata(config, **CASES["stablelm"].metadata)
    source = GgufSource(write_gguf(tmp_path / "a.gguf", "stablelm", metadata, stored))
    assert source.config()["qk_layernorm"] is True
    checkpoint = source.checkpoint()
    assert np.array_equal(checkpoint.read("model.layers.1.self_attn.q_layernorm.norms.3.weight"), norms[3])
    assert "model.layers.1.self_attn.k_layernorm.norms.2.weight" not in checkpoint.tensors


def test_mistral_is_llama_with_windows(tmp_path: Path) -> None:
    config, tensors = reference("llama")
    stored = converted(A.LLAMA, tensors, 3, lambda n, a: permuted(n, a, config))
    metadata = llama_metadata(config, **RMS, **KV, **{"attention.sliding_window": 24})
    raw = GgufSource(write_gguf(tmp_path / "a.gguf", "llama", metadata, stored)).config()
    assert (raw["model_type"], raw["sliding_window"]) == ("mistral", 24)
    assert architecture(raw).config(raw).windows == (24, 24, 24)


def test_olmo3_is_olmo2_with_windows(tmp_path: Path) -> None:
    config, tensors = reference("olmo2")
    stored = converted(A.OLMO2, tensors, 3, lambda n, a: a)
    metadata = llama_metadata(config, **CASES["olmo2"].metadata)
    metadata |= {"attention.sliding_window": 20, "attention.sliding_window_pattern": [True, False, True]}
    raw = GgufSource(write_gguf(tmp_path / "a.gguf", "olmo2", metadata, stored)).config()
    assert (raw["model_type"], raw["sliding_window"]) == ("olmo3", 20)
    assert raw["layer_types"] == ["sliding_attention", "full_attention", "sliding_attention"]


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        GgufSource(path).config()
    return str(caught.value)


def test_all_problems_of_metadata_are_listed(tmp_path: Path) -> None:
    config, _ = reference("llama")
    metadata = llama_metadata(
        config, **RMS, **{"expert_count": 8, "attention.head_count": "four", "expert_used_count": 0}
    )
    del metadata["block_count"]
    metadata["feed_forward_length"] = [40, 48, 40]
    text = refused(write_gguf(tmp_path / "a.gguf", "llama", metadata, {"output.weight": np.ones((2, 2), np.float32)}))
    for expected in (
        'metadata key "llama.block_count" is missing',
        "metadata key \"llama.attention.head_count\" is 'four': it must be an integer",
        'metadata key "llama.feed_forward_length" differs from layer to layer',
        'unknown metadata key "llama.expert_count": it may change what the model computes; it is 8',
        "there is no table of tokens",
    ):
        assert expected in text, expected
    assert "expert_used_count" not in text  # 0 switches it off
    assert "has 5 problems" in text


def test_unknown_architectures(tmp_path: Path) -> None:
    tensors = {"token_embd.weight": np.ones((2, 2), np.float32)}
    text = refused(write_gguf(tmp_path / "a.gguf", "gema3", {}, tensors))
    assert 'unknown architecture "gema3"' in text
    assert 'did you mean "gemma3"' in text
    assert "known architectures: bert, chatglm, cohere2" in text
    text = refused(write_gguf(tmp_path / "b.gguf", "clip", {}, tensors, general__type="mmproj"))
    assert "general.type says that it is a mmproj" in text
