"""Directories of MLC LLM: files as tvm's own writer makes them, values as MLC's group quantization defines them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tvm.contrib import tvmjs

from heddle.models import ModelError, architecture, check_model, match_weights, open_source
from heddle.models.weights import TensorSource

DTYPES = {"q0f16": np.float16, "q0f32": np.float32, "q0bf16": ml_dtypes.bfloat16}
DTYPES |= {"q4f16_1": np.float16, "q4f32_1": np.float32, "q4bf16_1": ml_dtypes.bfloat16, "q4f16_2": np.float16}
HIDDEN, FFN, HEADS, KV, DIM, VOCAB, LAYERS = 64, 96, 4, 2, 16, 50, 2


def quantize(weight: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q_weight, q_scale, and the values they stand for, element by element as `GroupQuantize` says."""
    rows, columns = weight.shape
    stored, scales = np.zeros((rows, columns // 8), np.uint32), np.zeros((rows, columns // 32), dtype)
    values = np.zeros((rows, columns), dtype)
    weight = weight.astype(dtype)
    for r in range(rows):
        for g in range(columns // 32):
            part = weight[r, g * 32 : g * 32 + 32]
            scales[r, g] = scale = (np.abs(part).max() / dtype(7)).astype(dtype)
            for i, value in enumerate(part):
                code = min(max(round(float(value) / float(scale) + 7), 0), 14)
                k = g * 32 + i
                stored[r, k // 8] |= np.uint32(code) << np.uint32(4 * (k % 8))
                values[r, k] = (dtype(code) - dtype(7)) * scale
    return stored, scales, values


def model_config(family: str) -> dict[str, Any]:
    """`model_config` as mlc_llm gen_config writes it."""
    config: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCAB,
        "head_dim": DIM,
        "context_window_size": 256,
        "prefill_chunk_size": 256,
        "tensor_parallel_shards": 1,
        "max_batch_size": 8,
    }
    if family == "llama":
        config |= {"position_embedding_base": 5000.0, "rope_scaling": None, "tie_word_embeddings": False}
        config |= {"pipeline_parallel_stages": 1, "disaggregation": False}
    elif family == "mistral":
        config |= {"position_embedding_base": 5000.0, "sliding_window_size": -1, "attention_sink_size": 4}
    else:
        config |= {"hidden_act": "silu", "rope_theta": 5000, "tie_word_embeddings": True, "dtype": "float32"}
    return config


def write(path: Path, family: str, quantization: str) -> dict[str, np.ndarray]:
    """A converted model; returns what its Hugging Face tensors hold."""
    rng = np.random.default_rng(0)
    dtype = DTYPES[quantization]
    params: dict[str, np.ndarray] = {}
    expected: dict[str, np.ndarray] = {}
    whole = {"model.embed_tokens": (VOCAB, HIDDEN)} | ({} if family == "qwen2" else {"lm_head": (VOCAB, HIDDEN)})
    vectors = {"model.norm": ""}
    fused = {}
    q, kv = HEADS * DIM, KV * DIM
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        name = "c_attn" if family == "qwen2" else "qkv_proj"
        parts = {f"{layer}self_attn.{part}_proj": n for part, n in (("q", q), ("k", kv), ("v", kv))}
        fused[f"{layer}self_attn.{name}"] = parts
        fused[f"{layer}mlp.gate_up_proj"] = {f"{layer}mlp.{part}_proj": FFN for part in ("gate", "up")}
        whole |= {f"{layer}self_attn.o_proj": (HIDDEN, q), f"{layer}mlp.down_proj": (HIDDEN, FFN)}
        vectors |= dict.fromkeys((f"{layer}input_layernorm", f"{layer}post_attention_layernorm"), "")

    def add(name: str, shape: tuple[int, int], parts: dict[str, int]) -> None:
        weight = rng.normal(0, 0.1, shape).astype(dtype)
        values = weight
        if quantization.startswith("q4") and not (
            quantization == "q4f16_2" and name in ("model.embed_tokens", "lm_head")
        ):
            params[f"{name}.q_weight"], params[f"{name}.q_scale"], values = quantize(weight, dtype)
            if dtype == np.float32:  # the writer stores scales as bfloat16
                params[f"{name}.q_scale"] = params[f"{name}.q_scale"].astype(ml_dtypes.bfloat16).astype(np.float32)
                codes = np.rint(values / np.repeat(quantize(weight, dtype)[1], 32, axis=1))
                values = codes.astype(np.float32) * np.repeat(params[f"{name}.q_scale"], 32, axis=1)
        else:
            params[f"{name}.weight"] = weight
            if dtype == np.float32:
                values = weight.astype(ml_dtypes.bfloat16)
        start = 0
        for part, rows in parts.items():
            expected[f"{part}.weight"] = values[start : start + rows]
            start += rows

    for name, shape in whole.items():
        add(name, shape, {name: shape[0]})
    for name, parts in fused.items():
        add(name, (sum(parts.values()), HIDDEN), parts)
        if name.endswith("c_attn"):
            params[f"{name}.bias"] = rng.normal(0, 0.1, sum(parts.values())).astype(dtype)
            for part, at in zip(parts, (0, q, q + kv), strict=True):
                expected[f"{part}.bias"] = params[f"{name}.bias"][at : at + parts[part]]
    for name in vectors:
        params[f"{name}.weight"] = expected[f"{name}.weight"] = np.ones(HIDDEN, dtype)
    path.mkdir(exist_ok=True)
    tvmjs.dump_tensor_cache(params, str(path), encode_format="f32-to-bf16", show_progress=False, shard_cap_mb=1)
    chat = {
        "version": "0.1.0",
        "model_type": family,
        "quantization": quantization,
        "model_config": model_config(family),
    }
    chat |= {
        "vocab_size": VOCAB,
        "context_window_size": 256,
        "bos_token_id": 1,
        "eos_token_id": [2],
        "conv_template": "x",
    }
    (path / "mlc-chat-config.json").write_text(json.dumps(chat))
    return expected


def assert_equal(checkpoint: TensorSource, expected: dict[str, np.ndarray]) -> None:
    assert set(checkpoint.tensors) == set(expected)
    for name, values in expected.items():
        array = checkpoint.read(name)
        assert array.shape == checkpoint.tensors[name].shape == values.shape, name
        assert array.dtype.name == checkpoint.tensors[name].dtype
        np.testing.assert_array_equal(array.astype(np.float64), values.astype(np.float64), name)


@pytest.mark.parametrize(
    ("family", "quantization"),
    [
        ("llama", "q0f16"),
        ("llama", "q0f32"),
        ("llama", "q0bf16"),
        ("llama", "q4f16_1"),
        ("llama", "q4f32_1"),
        ("llama", "q4bf16_1"),
        ("mistral", "q4f16_2"),
        ("qwen2", "q4f16_1"),
        ("qwen2", "q0f16"),
    ],
)
def test_values_and_config(tmp_path: Path, family: str, quantization: str) -> None:
    expected = write(tmp_path / "m", family, quantization)
    source = open_source(tmp_path / "m")
    assert source.name == "MLC directory"
    checkpoint = source.checkpoint()
    assert_equal(checkpoint, expected)
    info = checkpoint.tensors["model.layers.1.self_attn.k_proj.weight"]
    if quantization.startswith("q4"):
        assert info.quant.holds == "w4-g32"
        tensor = checkpoint.read_quantized("model.layers.1.self_attn.k_proj.weight")
        assert tensor.shape == info.shape == (KV * DIM, HIDDEN)
        assert tensor.zeros == 7
    else:
        assert info.quant is None
    raw = source.config()
    arch = architecture(raw)
    config = arch.config(raw)
    assert (config.num_layers, config.num_kv_heads, config.head_dim, config.context_length) == (LAYERS, KV, DIM, 256)
    assert raw["rope_theta"] == 5000
    assert match_weights(arch.weights(config), checkpoint).names
    assert [p for p in check_model(tmp_path / "m") if p.severity == "error"] == []


def test_gemma_norms_lose_the_1_that_mlc_adds(tmp_path: Path) -> None:
    stored = np.linspace(0.5, 1.5, 8).astype(np.float16)
    params = {"model.norm.weight": stored, "model.embed_tokens.weight": stored.reshape(2, 4)}
    tvmjs.dump_tensor_cache(params, str(tmp_path), show_progress=False)
    chat = {"model_type": "gemma", "quantization": "q0f16", "model_config": {"num_attention_heads": 1}}
    (tmp_path / "mlc-chat-config.json").write_text(json.dumps(chat))
    checkpoint = open_source(tmp_path).checkpoint()
    np.testing.assert_array_equal(checkpoint.read("model.norm.weight"), stored.astype(np.float32) - 1)
    np.testing.assert_array_equal(checkpoint.read("model.embed_tokens.weight"), stored.reshape(2, 4))


def test_damage_is_found(tmp_path: Path) -> None:
    write(tmp_path / "m", "llama", "q0f16")
    cache = tmp_path / "m" / "tensor-cache.json"
    shard = tmp_path / "m" / "params_shard_0.bin"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    assert "params_shard_0.bin is damaged" in [p.what for p in check_model(tmp_path / "m")]

    def problems() -> str:
        with pytest.raises(ModelError) as caught:
            open_source(tmp_path / "m").checkpoint()
        return str(caught.value)

    shard.write_bytes(data[:-1])
    assert "truncated" in problems()
    shard.unlink()
    assert "the file is missing" in problems()
    good = json.loads(cache.read_text())
    for change, says in (
        ({"dataPath": "../x.bin"}, "no raw shard in this directory"),
        ({"records": [{"name": "a"}]}, "dtype"),
        ({"nbytes": 1}, "should have 1"),
    ):
        shard.write_bytes(data)
        cache.write_text(json.dumps({**good, "records": [good["records"][0] | change]}))
        assert says in problems()
    for key, value, says in (("byteOffset", 1 << 40, "does not take"), ("format", "int4", "unknown format 'int4'")):
        wrong = json.loads(json.dumps(good))
        wrong["records"][0]["records"][0][key] = value
        cache.write_text(json.dumps(wrong))
        assert says in problems()
    cache.unlink()
    assert "neither tensor-cache.json nor ndarray-cache.json" in problems()


def test_what_is_not_known_is_listed(tmp_path: Path) -> None:
    chat = {"model_type": "rwkv6", "quantization": "q4f16_ft"}
    (tmp_path / "mlc-chat-config.json").write_text(json.dumps(chat))
    with pytest.raises(ModelError) as caught:
        open_source(tmp_path).config()
    assert [p.what.split(" ")[1] for p in caught.value.problems] == ["model_type", "quantization", "has"]
    (tmp_path / "mlc-chat-config.json").write_text("[")
    with pytest.raises(ModelError, match="not valid JSON"):
        open_source(tmp_path / "mlc-chat-config.json").config()
