"""Reading config.json: transformers' own output in both spellings, and every way to be wrong."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.models import ARCHITECTURES, ModelError, architecture, load_config
from heddle.models.config import IGNORED_KEYS
from heddle.models.decoder_config import DecoderConfig
from heddle.models.families.llama import llama_config
from heddle.models.families.mistral import mistral_config
from heddle.models.families.qwen import qwen2_config
from heddle.models.rope import ROPE_TYPES

SMALL = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("LlamaForCausalLM", {"num_key_value_heads": 6, "rms_norm_eps": 1e-5}),
    "llama3": ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}}),
    "llama-biased": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True, "head_dim": 10}),
    "llama-tied": ("LlamaForCausalLM", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "mistral": ("MistralForCausalLM", {"sliding_window": 7}),
    "mistral-unwindowed": ("MistralForCausalLM", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2ForCausalLM", {"tie_word_embeddings": True, "max_window_layers": 1}),
    "qwen2-windowed": ("Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}),
    "all-defaults": ("LlamaForCausalLM", {}),
}

REFERENCE = """
import json, sys, torch, transformers
from transformers import GenerationConfig
out = {"generation": sorted(GenerationConfig._get_default_generation_params())}
for name, (architecture, values) in json.load(sys.stdin).items():
    config_class = getattr(transformers, architecture.replace("ForCausalLM", "Config"))
    config = config_class(**values, architectures=[architecture], dtype="bfloat16")
    text = json.loads(config.to_json_string(use_diff=False))
    types, rope = getattr(config, "layer_types", None), config.rope_parameters
    out[name] = [text, json.loads(config.to_json_string()), types, rope]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    """config.json as transformers writes it, whole and as differences from defaults; in a process without TVM."""
    text = json.dumps({name: (arch, SMALL | values) for name, (arch, values) in FAMILIES.items()})
    done = subprocess.run([sys.executable, "-c", REFERENCE], input=text, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def read(raw: dict[str, Any]) -> DecoderConfig:
    """The config by way of the registry."""
    return architecture(raw).config(raw)


def test_two_names_of_one_key_must_agree() -> None:
    raw = {"vocab_size": 96, "n_embd": 48, "n_head": 6, "n_layer": 3, "model_type": "gpt2"}
    assert read(raw | {"hidden_size": 48}).hidden_size == 48
    assert 'unknown config key "n_embd"' in problems(raw | {"hidden_size": 96})
    assert "scale_attn_weights" in problems(raw | {"scale_attn_weights": False})


def problems(raw: dict[str, Any]) -> str:
    """The message for a config that must be refused."""
    with pytest.raises(ModelError) as caught:
        read(raw)
    return str(caught.value)


def raw_llama(**changes: Any) -> dict[str, Any]:
    """A small valid config with changes."""
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SMALL, **changes}


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_output_is_read(name: str, saved: dict[str, Any]) -> None:
    whole, differences, layer_types, rope = saved[name]
    config = read(whole)
    assert config == read(differences)
    assert config.architecture == FAMILIES[name][0]
    for ours, theirs in (
        ("vocab_size", "vocab_size"),
        ("hidden_size", "hidden_size"),
        ("ffn", "intermediate_size"),
        ("num_layers", "num_hidden_layers"),
        ("num_heads", "num_attention_heads"),
        ("num_kv_heads", "num_key_value_heads"),
        ("context_length", "max_position_embeddings"),
        ("norm_eps", "rms_norm_eps"),
        ("tie_embeddings", "tie_word_embeddings"),
        ("checkpoint_dtype", "dtype"),
    ):
        assert getattr(config, ours) == whole[theirs], ours
    assert config.head_dim == (whole.get("head_dim") or 8)
    assert config.ropes[0].type == rope["rope_type"]
    assert config.ropes[0].theta == rope["rope_theta"]
    if layer_types is not None:
        window = whole["sliding_window"]
        assert config.windows == tuple(window if t == "sliding_attention" else 0 for t in layer_types)
    else:
        assert config.windows == (whole.get("sliding_window") or 0,) * 3
    assert config.qkv_bias == (name.startswith("qwen2") or whole.get("attention_bias", False))
    assert config.output_bias == whole.get("attention_bias", False)
    assert config.mlp_bias == whole.get("mlp_bias", False)


@pytest.mark.parametrize("name", FAMILIES)
def test_older_spelling_is_read(name: str, saved: dict[str, Any]) -> None:
    new = saved[name][1]
    old = {key: value for key, value in new.items() if key not in ("rope_parameters", "dtype", "layer_types")}
    scaling = dict(new["rope_parameters"])
    old["rope_theta"] = scaling.pop("rope_theta")
    old["rope_scaling"] = scaling if scaling["rope_type"] != "default" else None
    old["torch_dtype"] = "bfloat16"
    assert read(old) == read(new)


def test_transformers_generation_defaults_are_ignored(saved: dict[str, Any]) -> None:
    assert set(saved["generation"]) <= IGNORED_KEYS


def test_defaults_are_those_of_the_family() -> None:
    sizes = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"} | {"num_attention_heads": 8}
    llama, mistral = llama_config(sizes), mistral_config(sizes)
    assert (llama.num_kv_heads, llama.context_length, llama.windows) == (8, 2048, (0, 0, 0))
    assert (mistral.num_kv_heads, mistral.context_length, mistral.windows) == (8, 131072, (4096, 4096, 4096))
    assert qwen2_config(sizes | {"num_key_value_heads": None}).num_kv_heads == 8
    assert llama.checkpoint_dtype == "float32"
    assert llama.norm_eps == 1e-6


def test_qwen2_windows() -> None:
    raw = SMALL | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    assert qwen2_config(raw).windows == (0, 5, 5)
    assert qwen2_config(raw | {"use_sliding_window": False}).windows == (0, 0, 0)
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    assert qwen2_config(raw | {"layer_types": types}).windows == (5, 0, 5)
    with pytest.raises(ModelError, match="lists 2 layers"):
        qwen2_config(raw | {"layer_types": types[:2]})
    with pytest.raises(ModelError, match="there is no window"):
        qwen2_config(SMALL | {"layer_types": types})
    with pytest.raises(ModelError, match="supported: full_attention, sliding_attention"):
        qwen2_config(raw | {"layer_types": ["linear_attention"] * 3})


def test_all_problems_are_listed_at_once() -> None:
    raw = raw_llama(
        hidden_size=None,
        intermediate_size="80",
        num_hidden_layers=0,
        num_attention_heads=True,
        rms_norm_eps=-1,
        hidden_act="xielu",
        tie_word_embeddings="yes",
        rope_tetha=1e6,
        quantization_config={"bits": 4},
        sliding_window=16,
        dtype="float8_e4m3fn",
        rope_scaling={"type": "su", "factor": 2.0},
    )
    del raw["vocab_size"]
    text = problems(raw)
    for expected in (
        "13 problems",
        '"vocab_size" is missing',
        '"hidden_size" is missing',
        '"intermediate_size" is "80": it must be an integer',
        '"num_hidden_layers" is 0: it must be at least 1',
        '"num_attention_heads" is true: it must be an integer',
        '"rms_norm_eps" is -1: it must be finite and positive',
        '"hidden_act" is "xielu": supported: silu',
        '"tie_word_embeddings" is "yes": it must be true or false',
        'unknown config key "rope_tetha": it may change what the model computes; did you mean "rope_theta"',
        '"quantization_config" is {"bits": 4}, which is not supported: its weights are stored quantized',
        'rope_scaling.type" is "su": supported: default',
        '"sliding_window" is 16, which is not supported',
        '"dtype" is "float8_e4m3fn": supported: float32, float16, bfloat16',
    ):
        assert expected in text, expected


def test_values_that_do_not_go_together() -> None:
    assert "6 attention heads cannot share 4 key/value heads" in problems(raw_llama(num_key_value_heads=4))
    assert "50 hidden features do not split into 6 heads" in problems(raw_llama(hidden_size=50))
    assert "it must be at most" in problems(raw_llama(num_hidden_layers=10**400))
    assert "heads have 7 dimensions" in problems(raw_llama(head_dim=7))
    assert read(raw_llama(hidden_size=50, head_dim=12)).head_dim == 12


def test_inert_values_are_accepted() -> None:
    inert = {
        "use_mrope": False,
        "quantization_config": None,
        "invented": None,
        "sliding_window": None,
        "partial_rotary_factor": 1.0,
    }
    assert read(raw_llama(**inert)) == read(raw_llama())
    assert "use_mrope" in problems(raw_llama(use_mrope=True))
    assert "use_mrope" in problems(raw_llama(use_mrope=0))  # a number is not a switch


def test_unknown_architecture_lists_the_known() -> None:
    text = problems(raw_llama(architectures=["LlamaForCausalLLM"]))
    assert 'unknown architecture "LlamaForCausalLLM"' in text
    assert 'did you mean "LlamaForCausalLM"' in text
    assert "did you mean" not in problems(raw_llama(architectures=["MambaForCausalLM"]))  # all end alike
    for name in ARCHITECTURES:
        assert name in text
    assert "Qwen2ForCausalLM" in problems({"model_type": "mamba"})
    assert "does not name one architecture" in problems({})
    assert "does not name one architecture" in problems({"architectures": []})
    assert "does not go with model_type" in problems(raw_llama(model_type="mistral"))


def test_architecture_by_model_type() -> None:
    assert architecture({"model_type": "qwen2", "architectures": None}).name == "Qwen2ForCausalLM"


def test_load_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw_llama()))
    assert load_config(tmp_path) == load_config(tmp_path / "config.json") == raw_llama()


@pytest.mark.parametrize(
    ("files", "path", "expected"),
    [
        ({}, "", "it is empty"),
        ({}, "missing", "the path does not exist"),
        ({"weights.gguf": ""}, "weights.gguf", "it is a file"),
        ({"a.txt": "", "b.txt": ""}, "", "only: a.txt, b.txt"),
        ({"adapter_config.json": "{}"}, "", "it is an adapter"),
        ({"manifest.json": "{}"}, "", "compiled artifact"),
        ({"config.json": '{"a": '}, "", "not valid JSON"),
        ({"config.json": "[" * 200000}, "", "not valid JSON"),
        ({"config.json": "[1]"}, "", "it holds a list"),
    ],
)
def test_not_a_model_directory(tmp_path: Path, files: dict[str, str], path: str, expected: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError) as caught:
        load_config(tmp_path / path)
    assert expected in str(caught.value)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(0, 9), st.floats(), st.text(max_size=5))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
ROPE = st.dictionaries(st.sampled_from(["rope_type", "type", "factor", "original_max_position_embeddings"]), VALUES)
KEYS = [*raw_llama(), "rope_theta", "head_dim", "dtype", "torch_dtype", "sliding_window", "layer_types", "hidden_act"]


@given(
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    rope=st.one_of(VALUES, ROPE, st.fixed_dictionaries({"rope_type": st.sampled_from(ROPE_TYPES), "factor": VALUES})),
    name=st.sampled_from(sorted(ARCHITECTURES)),
)
@settings(deadline=None, max_examples=300)
def test_any_json_is_read_or_refused(changes: dict[str, Any], rope: Any, name: str) -> None:
    raw = raw_llama(model_type=None, architectures=[name], rope_scaling=rope) | changes
    try:
        config = read(raw)
    except ModelError:
        return
    assert len(config.windows) == config.num_layers
    assert all(rope is None or np.isfinite(rope.scale()) for rope in config.ropes)


def test_model_error_survives_pickling() -> None:
    with pytest.raises(ModelError) as caught:
        read(raw_llama(vocab_size=0, hidden_act="relu"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.problems) == (str(caught.value), caught.value.problems)
