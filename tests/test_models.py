"""Exported models: their form, and what they compute.

The exported dialect calls are interpreted with the dialect's NumPy references and compared with transformers, which
runs in a process of its own. Kernels and passes play no part here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from heddle.ir_passes.dialect import OPS, attr
from heddle.models import RandomCheckpoint, architecture
from heddle.models.decoder_config import DecoderConfig
from heddle.runtime.plans import PAGE, PlanLayout, PlanSequence, build_plan
from heddle.schedules.compat import relax, tvm

LAYOUT = PlanLayout(max_tokens=64, max_seqs=4)
TOKENS = 41
SMALL = {
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
MODELS: dict[str, dict[str, Any]] = {
    "llama2": {"architectures": ["LlamaForCausalLM"], "num_key_value_heads": 6},
    "llama3-tied": {
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **LLAMA3},
    },
    "llama-biased": {"architectures": ["LlamaForCausalLM"], "attention_bias": True, "mlp_bias": True, "head_dim": 10},
    "llama-linear-mqa": {
        "architectures": ["LlamaForCausalLM"],
        "num_key_value_heads": 1,
        "rope_theta": 300.0,
        "rope_scaling": {"type": "linear", "factor": 3.0},
    },
    "llama-dynamic": {
        "architectures": ["LlamaForCausalLM"],
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0},
    },
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 7, "head_dim": 16},
    "qwen2-windowed": {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen2-yarn": {
        "architectures": ["Qwen2ForCausalLM"],
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    },
}

REFERENCE = """
import json, sys, torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
job = json.load(sys.stdin)
ids = torch.tensor([job["ids"]])
out = {}
for path in job["paths"]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        out[path] = model(ids).logits[0].tolist()
print(json.dumps(out))
"""


def raw_of(name: str) -> dict[str, Any]:
    model_type = MODELS[name]["architectures"][0].removesuffix("ForCausalLM").lower()
    return SMALL | {"model_type": model_type} | MODELS[name]


def export(raw: dict[str, Any], dtypes: dict[str, str] | None = None, kv_dtype: str = "float32") -> Any:
    arch = architecture(raw)
    return arch.export(arch.config(raw), dtypes=dtypes or {}, kv_dtype=kv_dtype, plan_layout=LAYOUT)


def config_of(raw: dict[str, Any]) -> DecoderConfig:
    return architecture(raw).config(raw)


def calls(function: relax.Function) -> list[tuple[relax.Var, relax.Call]]:
    """The bindings of a function, in order; all of them are dialect calls."""
    (block,) = function.body.blocks
    bindings = [(b.var, b.value) for b in block.bindings]
    assert all(value.op.name in OPS for _, value in bindings if isinstance(value, relax.Call))
    return [(var, value) for var, value in bindings if isinstance(value, relax.Call)]


def calls_of(function: relax.Function, op: str) -> list[relax.Call]:
    return [call for _, call in calls(function) if call.op.name == f"heddle.{op}"]


def interpret(function: relax.Function, arguments: list[np.ndarray]) -> np.ndarray:
    """The function's result by the NumPy references of its calls."""
    values: dict[Any, np.ndarray] = dict(zip(function.params, arguments, strict=True))

    def value(expr: Any) -> np.ndarray:
        return values[expr] if isinstance(expr, relax.Var) else expr.value.numpy()

    (block,) = function.body.blocks
    for binding in block.bindings:
        call = binding.value
        if isinstance(call, relax.Call):
            attrs = {name: attr(call, name) for name in call.attrs.keys()} if call.attrs else {}  # noqa: SIM118
            (values[binding.var],) = OPS[call.op.name].reference(*(value(arg) for arg in call.args), **attrs)
        else:
            values[binding.var] = value(call)
    return value(function.body.body)


def logits(raw: dict[str, Any], checkpoint: RandomCheckpoint, ids: np.ndarray) -> np.ndarray:
    """All logits of one prompt by embed, body and head."""
    arch, config, mod = architecture(raw), config_of(raw), export(raw)
    specs = arch.weights(config)
    pages = np.array([3, 0, 2], np.int32)
    layout = PlanLayout.of(LAYOUT.max_tokens, LAYOUT.max_seqs, heads=config.num_heads, kv_heads=config.num_kv_heads)
    plan = np.zeros(layout.size(len(pages)), np.int32)
    sequence = PlanSequence(pages, start=0, rows=len(ids))
    _, positions = build_plan(layout, plan, [sequence], rows_only=False)
    cache = np.full((4, config.num_layers, config.num_kv_heads, PAGE * 2 * config.head_dim), np.nan, np.float32)

    def call(name: str, *inputs: np.ndarray) -> np.ndarray:
        function = mod[name]
        params = function.params[int(function.attrs["num_input"]) :]
        return interpret(function, [*inputs, *(checkpoint.read(specs[names[p.name]].source[0]) for p in params)])

    names = {param.replace(".", "_"): param for param in specs} | {param: param for param in specs}
    hidden = call("body", call("embed", ids), positions, plan, cache)
    return call("head", hidden, np.arange(len(ids), dtype=np.int32))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Token ids, and the logits of transformers for every model on weights of seed 5."""
    ids = np.random.default_rng(0).integers(0, SMALL["vocab_size"], TOKENS).astype(np.int32)
    paths = {}
    for name in MODELS:
        path = tmp_path_factory.mktemp(name)
        raw = raw_of(name)
        checkpoint = random_weights(raw)
        (path / "config.json").write_text(json.dumps(raw))
        save_file({n: checkpoint.read(n) for n in checkpoint.tensors}, path / "model.safetensors", {"format": "pt"})
        paths[name] = str(path)
    job = json.dumps({"ids": ids.tolist(), "paths": list(paths.values())})
    done = subprocess.run([sys.executable, "-c", REFERENCE], input=job, capture_output=True, text=True, check=True)
    answers = json.loads(done.stdout)
    return ids, {name: np.array(answers[path], np.float32) for name, path in paths.items()}


def random_weights(raw: dict[str, Any]) -> RandomCheckpoint:
    return RandomCheckpoint(architecture(raw).weights(config_of(raw)), 5, "float32")


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name: str, reference: Any) -> None:
    ids, expected = reference
    raw = raw_of(name)
    found = logits(raw, random_weights(raw), ids)
    assert np.abs(found - expected[name]).max() < 1e-4 * np.abs(expected[name]).max()


def test_models_compute_different_things(reference: Any) -> None:
    raw = raw_of("mistral")
    ids, expected = reference
    wider = logits(raw | {"sliding_window": 8}, random_weights(raw), ids)
    assert np.abs(wider - expected["mistral"])[:7].max() < 1e-6
    assert np.abs(wider - expected["mistral"])[7:].max() > 1e-3 * np.abs(wider).max()


@pytest.mark.parametrize("name", MODELS)
def test_exported_functions(name: str) -> None:
    raw = raw_of(name)
    config, mod = config_of(raw), export(raw)
    assert {gv.name_hint for gv in mod.functions} == {"embed", "body", "head"}
    relax.analysis.well_formed(mod)  # raises where it is not
    inputs = {"embed": ["tokens"], "body": ["x", "positions", "plan", "cache"], "head": ["hidden", "rows"]}
    params = {}
    for function, expected in inputs.items():
        assert [p.name for p in mod[function].params[: len(expected)]] == expected
        assert int(mod[function].attrs["num_input"]) == len(expected)
        params[function] = mod[function].params[len(expected) :]
    head = "embed.weight" if config.tie_embeddings else "lm_head.weight"
    assert [p.name for p in params["embed"]] == ["embed.weight"]
    assert [p.name for p in params["head"]] == [head]
    specs = architecture(raw).weights(config)
    by_name = {p.name: p for function in params.values() for p in function}
    assert set(by_name) == set(specs)
    assert all(tuple(int(d) for d in by_name[p].ty.shape) == spec.shape for p, spec in specs.items())


@pytest.mark.parametrize("name", MODELS)
def test_dialect_calls_of_every_layer(name: str) -> None:
    raw = raw_of(name)
    config, mod = config_of(raw), export(raw)
    layers = config.num_layers
    counts = Counter(call.op.name.removeprefix("heddle.") for _, call in calls(mod["body"]))
    per_layer = {"rms_norm": 2, "linear": 7, "rope": 2, "kv_append": 1, "attention": 1, "gated": 1, "add": 2}
    assert counts == {op: n * layers for op, n in per_layer.items()} | {"rope_table": 1, "rms_norm": 2 * layers + 1}
    sites = [attr(call, "site") for call in calls_of(mod["body"], "linear")]
    linears = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")
    assert sites == [f"layers.{i}.{linear}" for i in range(layers) for linear in linears]
    attentions = calls_of(mod["body"], "attention")
    assert [attr(call, "layer") for call in attentions] == list(range(layers))
    assert tuple(attr(call, "window") for call in attentions) == config.windows
    assert all(attr(call, "scale") == config.head_dim**-0.5 for call in attentions)
    biased = {
        attr(c, "site").rsplit(".")[-1] for c in calls_of(mod["body"], "linear") if attr(c, "epilogue") == ["bias"]
    }
    wanted = {"q", "k", "v"} if config.qkv_bias else set()
    wanted |= {"o"} if config.output_bias else set()
    assert biased == wanted | ({"gate", "up", "down"} if config.mlp_bias else set())
    assert [op for _, call in calls(mod["head"]) for op in [call.op.name]] == ["heddle.gather_rows", "heddle.linear"]
    (head,) = calls_of(mod["head"], "linear")
    assert (attr(head, "site"), attr(head, "axes")) == ("lm_head", ["vocab", "hidden"])


def test_stored_types() -> None:
    raw = raw_of("qwen2-windowed")
    dtypes = {"layers.0.attn.q.weight": "bfloat16", "embed.weight": "float16"}
    mod = export(raw, dtypes, kv_dtype="bfloat16")
    params = {p.name: str(p.ty.dtype) for f in ("embed", "body", "head") for p in mod[f].params}
    assert params["cache"] == "uint16"
    assert params["embed.weight"] == "float16"
    assert params["layers.0.attn.q.weight"] == "bfloat16"
    assert {params[n] for n in ("layers.0.attn.k.weight", "layers.0.attn.q.bias", "norm.weight")} == {"float32"}
    (embedding,) = calls_of(mod["embed"], "embedding")
    assert attr(embedding, "table_dtype") == "float16"
    assert str(export(raw, kv_dtype="float16")["body"].params[3].ty.dtype) == "float16"


@pytest.mark.parametrize(
    ("dtypes", "kv_dtype", "expected"),
    [
        ({"norm.weight": "float16"}, "float32", "dtypes are given for norm.weight"),
        ({"layers.9.attn.q.weight": "float16"}, "float32", "dtypes are given for layers.9"),
        ({"embed.weight": "int8"}, "float32", "dtype 'int8' is not supported"),
        ({}, "float64", "supported: float32, float16, bfloat16"),
    ],
)
def test_bad_types_are_refused(dtypes: dict[str, str], kv_dtype: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        export(raw_of("llama2"), dtypes, kv_dtype)


def test_shapes_are_symbolic() -> None:
    mod = export(raw_of("llama2"))
    body = mod["body"]
    n = body.params[0].ty.shape[0]
    assert all(isinstance(p.ty.shape[0], tvm.ir.Var) for p in body.params[:4])
    assert body.params[1].ty.shape[0].same_as(n)
    assert body.ret_ty.shape[0].same_as(n)
    assert [int(d) for d in list(body.params[3].ty.shape)[1:]] == [3, 6, PAGE * 2 * 8]


def test_export_of_many_layers_is_quick() -> None:
    raw = raw_of("llama2") | {"num_hidden_layers": 48}
    begin = time.perf_counter()
    export(raw)
    assert time.perf_counter() - begin < 10
