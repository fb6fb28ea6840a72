"""Rotary tables against transformers, which runs in a process of its own: torch and TVM's LLVM do not share one."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from heddle.models import ModelError
from heddle.models.families.llama import llama_config
from heddle.models.rope import RopeConfig

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 4096}
CASES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 3.3},
    "llama3": {"rope_type": "llama3", **LLAMA3},
    "llama3-32": {"rope_type": "llama3", **LLAMA3, "factor": 32.0},
    "llama3-without-original": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 1, "high_freq_factor": 4},
    "yarn": {"rope_type": "yarn", **YARN},
    "yarn-betas": {"rope_type": "yarn", **YARN, "beta_fast": 20, "beta_slow": 2, "truncate": False},
    "yarn-attention": {"rope_type": "yarn", **YARN, "attention_factor": 1.25},
    "yarn-mscale": {"rope_type": "yarn", **YARN, "mscale": 0.8, "mscale_all_dim": 0.5},
    "yarn-step": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
    "yarn-ratio": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 4096},
    "longrope": {"rope_type": "longrope", "original_max_position_embeddings": 4096},
    "longrope-short": {"rope_type": "longrope"},
    "longrope-factor": {"rope_type": "longrope", "original_max_position_embeddings": 4096, "factor": 8.0},
    "longrope-attention": {"rope_type": "longrope", "original_max_position_embeddings": 64, "attention_factor": 1.25},
}
SHAPES = [(64, 10000.0), (80, 500000.0), (128, 1e6), (12, 123456.5)]

REFERENCE = """
import json, sys, torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
out = []
for raw in json.load(sys.stdin):
    config = LlamaConfig(**raw)
    rope = LlamaRotaryEmbedding(config)
    table, scale = rope.inv_freq, rope.attention_scaling
    if rope.rope_type == "longrope":  # the factors of a sequence as long as the context
        table, scale = ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=config.max_position_embeddings)
    out.append([table.tolist(), float(scale)])
print(json.dumps(out))
"""


def raw_config(name: str, dim: int, theta: float) -> dict[str, Any]:
    """A config.json in the current spelling."""
    sizes = {"vocab_size": 32, "hidden_size": 2 * dim, "intermediate_size": 64, "num_hidden_layers": 1}
    rope = {"rope_theta": theta, **CASES[name]}
    if rope["rope_type"] == "longrope":
        rope |= {"short_factor": np.linspace(1, 1.5, dim // 2).tolist()}
        rope |= {"long_factor": np.linspace(1, 40, dim // 2).tolist()}
    return sizes | {"num_attention_heads": 2, "max_position_embeddings": 16384, "rope_parameters": rope}


@pytest.fixture(scope="module")
def reference() -> dict[tuple[str, int], tuple[np.ndarray, float]]:
    """inv_freq and scale of transformers for every case and shape."""
    keys = [(name, dim, theta) for name in CASES for dim, theta in SHAPES]
    text = json.dumps([raw_config(*key) for key in keys])
    done = subprocess.run([sys.executable, "-c", REFERENCE], input=text, capture_output=True, text=True, check=True)
    answers = json.loads(done.stdout)
    return {(k[0], k[1]): (np.array(a[0], np.float32), a[1]) for k, a in zip(keys, answers, strict=True)}


@pytest.mark.parametrize(("dim", "theta"), SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_table_equals_transformers(name: str, dim: int, theta: float, reference: Any) -> None:
    expected, scale = reference[name, dim]
    rope = llama_config(raw_config(name, dim, theta)).ropes[0]
    inv_freq = rope.inv_freq()
    assert inv_freq.dtype == np.float32
    assert inv_freq.shape == (dim // 2,)
    # torch's vectorised float32 power is not correctly rounded: a few entries differ in the last place.
    np.testing.assert_array_max_ulp(inv_freq, expected, maxulp=4)
    assert np.mean(inv_freq == expected) > 0.8
    assert rope.scale() == pytest.approx(scale, rel=1e-12)


TABLES = ("default", "linear", "llama3", "llama3-32", "yarn", "yarn-betas", "longrope", "longrope-short")


def test_scalings_differ_from_each_other(reference: Any) -> None:
    tables = [reference[name, 128][0] for name in TABLES]
    assert len({table.tobytes() for table in tables}) == len(tables)
    assert np.array_equal(reference["dynamic", 128][0], reference["default", 128][0])  # at the configured length


@pytest.mark.parametrize("name", CASES)
def test_both_spellings_agree(name: str) -> None:
    new = raw_config(name, 64, 10000.0)
    old = {key: value for key, value in new.items() if key != "rope_parameters"}
    given = new["rope_parameters"].items()
    scaling = {"type" if key == "rope_type" else key: value for key, value in given if key != "rope_theta"}
    old |= {"rope_theta": 10000.0, "rope_scaling": scaling}
    assert llama_config(new).ropes[0] == llama_config(old).ropes[0]


def test_absent_rope_is_default() -> None:
    raw = raw_config("default", 64, 10000.0)
    del raw["rope_parameters"]
    assert llama_config(raw).ropes[0] == RopeConfig(dim=64, context=16384)
    assert llama_config(raw | {"rope_scaling": None, "rope_theta": 5e5}).ropes[0].theta == 5e5


def test_a_shorter_context_takes_short_factors() -> None:
    rope = llama_config(raw_config("longrope", 64, 10000.0)).ropes[0]
    short = dataclasses.replace(rope, context=4096)
    longer = dataclasses.replace(rope, short_factor=rope.long_factor)
    assert rope.inv_freq().tobytes() == longer.inv_freq().tobytes() != short.inv_freq().tobytes()
    assert rope.scale() == short.scale()  # by the lengths of the config, whatever the context


def test_pretraining_length_is_nothing_to_other_types() -> None:
    raw = raw_config("default", 64, 10000.0)
    assert llama_config(raw | {"original_max_position_embeddings": 4096}).ropes == llama_config(raw).ropes


def test_outer_pretraining_length_wins() -> None:
    raw = raw_config("llama3", 64, 10000.0) | {"original_max_position_embeddings": 1024}
    assert llama_config(raw).ropes[0].original == 1024


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "su"}, 'rope_type" is "su": supported: default, linear, dynamic, llama3, yarn, longrope'),
        ({"rope_type": "longrope", "short_factor": [1.0] * 32}, '"rope_parameters.long_factor" is missing'),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [0.0]}, "short_factor has 1 numbers"),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [0.0]}, 'long_factor" is [0.0]'),
        ({"rope_type": "longrope", "short_factor": "1"}, "it must list a positive number for each pair"),
        ({"rope_type": "linear"}, '"rope_parameters.factor" is missing'),
        ({"rope_type": "linear", "factor": 0.5}, "factor is 0.5"),
        ({"rope_type": "linear", "factor": "2"}, "must be a number"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 3}, 'unknown rope parameter "beta_fast"'),
        ({"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}, "high_freq_factor must be greater"),
        ({"rope_type": "yarn", **YARN, "beta_fast": 1, "beta_slow": 2}, "beta_fast must not be less"),
        ({"rope_type": "yarn", **YARN, "truncate": 1}, "must be true or false"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "models of this family rotate whole heads"),
        ({"rope_type": "default", "rope_theta": -1.0}, "it must be finite and positive"),
        ([1], "it must be an object or null"),
    ],
)
def test_bad_rope_is_explained(rope: Any, expected: str) -> None:
    raw = raw_config("default", 64, 10000.0) | {"rope_parameters": rope}
    with pytest.raises(ModelError) as caught:
        llama_config(raw)
    text = "; ".join(f"{problem.what}: {problem.why}" for problem in caught.value.problems)
    assert expected in text


def test_spellings_that_disagree_are_refused() -> None:
    raw = raw_config("linear", 64, 10000.0) | {
        "rope_scaling": {"rope_type": "linear", "factor": 9.0},
        "rope_theta": 3.0,
    }
    with pytest.raises(ModelError) as caught:
        llama_config(raw)
    assert "rope_parameters and rope_scaling disagree" in str(caught.value)
    assert "rope_theta is 3.0 and also 10000.0" in str(caught.value)
