"""The whole lowering on one small model: its phases, what they leave behind, and the program that comes out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heddle.ir_passes.pipeline import Lowered, check_well_formed, lower, phases
from heddle.models import architecture
from heddle.runtime.plans import PlanLayout
from heddle.schedules.compat import ir, relax
from heddle.schedules.target import PROFILES

GOLDEN = Path(__file__).parent / "golden"
RAW = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


SCHEMES = {"embed": "w8a8-pc", "lm_head": "w8a8-pc"} | {
    f"layers.0.{site}": "w4a8-g32"
    for site in ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.up", "mlp.down")
}


def lower_small(schemes: dict[str, str]) -> Lowered:
    arch = architecture(RAW)
    config = arch.config(RAW)
    dtypes = {name: "float16" for name, spec in arch.weights(config).items() if spec.kind != "vector"}
    mod = arch.export(config, dtypes=dtypes, kv_dtype="float16", plan_layout=PlanLayout(64, 4))
    return lower(mod, PROFILES["x86-64-v3"], max_tokens=64, schemes=schemes)


@pytest.fixture(scope="module")
def lowered() -> Lowered:
    return lower_small({})


@pytest.fixture(scope="module")
def quantized() -> Lowered:
    return lower_small(SCHEMES)


def summary(lowered: Lowered) -> str:
    """Calls of each function after `lift_weights`, the weights, and what the passes decided."""
    lines = []
    for line in dict(lowered.texts)["lift_weights"].splitlines():
        if match := re.match(r"\s+def (\w+)\(", line):
            lines.append(f"{match[1]}:")
        elif match := re.search(r'T\.Call\("heddle\.(\w+)", \[(.*?)\], attrs=\{(.*?)\}, ret_ty', line):
            lines.append(f"  {match[1]}({match[2]}) {match[3]}")
    lines += ["weights:", *(f"  {name} {w.dtype} {list(w.shape)}" for name, w in lowered.weights.items())]
    lines.append("passes:")
    for record in lowered.log.records:
        if record.phase in ("assign_schemes", "merge_linears", "fuse_epilogue", "fuse_qkv_append", "fuse_norm"):
            lines.append(f"  {record.phase} {record.function} {record.site}: {record.reason or 'matched'}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("model", "file"), [("lowered", "small_llama.txt"), ("quantized", "small_llama_w4a8.txt")])
def test_the_program_is_as_it_was(model: str, file: str, request: pytest.FixtureRequest) -> None:
    """A change here is a change of every compiled model: look at it, then run pytest with --update-golden."""
    found = summary(request.getfixturevalue(model))
    if request.config.getoption("--update-golden"):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / file).write_text(found)
    assert found == (GOLDEN / file).read_text()


def test_every_phase_leaves_its_text_and_its_time(lowered: Lowered) -> None:
    names = [phase.name for phase in phases(64, {})]
    assert [name for name, _ in lowered.texts] == ["export", *names]
    assert set(lowered.seconds) == set(names)
    assert all("def body" in text for _, text in lowered.texts)


def test_all_instances_take_their_weights_in_one_order(lowered: Lowered) -> None:
    orders = {tuple(params) for symbol, params in lowered.params.items() if symbol.startswith("body_")}
    assert len(orders) == 1
    assert lowered.params["embed_n"] == lowered.params["head_1"] == ["embed.weight.tile32"], (
        "a tied table is stored once"
    )


def test_a_quantized_table_is_stored_once(quantized: Lowered) -> None:
    table = ["embed.weight.w8-pc.codes", "embed.weight.w8-pc.scales"]
    assert quantized.params["embed_n"] == quantized.params["head_1"] == quantized.params["head_n"] == table


def test_workspace_grows_with_the_rows(lowered: Lowered) -> None:
    sizes = [lowered.workspace[f"body_{rows}"] for rows in ("1", "4", "8", "n")]
    assert sizes == sorted(sizes)
    assert 0 < sizes[0] < sizes[-1]


def test_a_broken_module_names_the_phase() -> None:
    x = relax.Var("x", relax.TensorType([2], "float32"))
    stranger = relax.Var("y", relax.TensorType([2], "float32"))
    func = relax.Function([x], stranger, stranger.ty).with_attr("global_symbol", "main")
    with pytest.raises(RuntimeError, match="phase fuse_norm left a module that is not well-formed"):
        check_well_formed(ir.IRModule({"main": func}), "fuse_norm")
