"""Targets from end to end: the same bits on two of them, verbs that take a target, and what is refused.

tests/targets/test_x86_artifact.py has all of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import heddle
from heddle.runtime import artifact as artifact_module
from heddle.runtime.artifact import read_manifest
from heddle.runtime.errors import ArtifactError, HeddleError
from heddle.runtime.features import architecture
from heddle.schedules.target import PROFILES, resolve_target, resolve_targets

from .artifact_tools import copy_artifact, edit_manifest
from .conftest import ROOT
from .test_cli import call

MODEL = ROOT / "examples" / "tinydoc"
PORTABLE = [profile.name for profile in resolve_targets("portable")]
PAIR = list(dict.fromkeys([resolve_target().name, PORTABLE[-1]]))
"""The best target of this machine, and the least one."""
PROMPTS = ["The command line option", "def main(", "To install the package, run", "A transaction is", "Grüße — 日本語"]
FOREIGN = next(name for name, profile in PROFILES.items() if profile.portable and profile.arch != architecture())
NOWHERE = "/nowhere/g++"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model for both."""
    return heddle.compile_model(MODEL, tmp_path_factory.mktemp("pair") / "tinydoc.heddle", target=PAIR)


# ------------------------------------------------------------------------------------------- one artifact, several targets
def answers(path: Path, target: str) -> tuple[list[list[int]], list[np.ndarray]]:
    """64 greedy tokens of each prompt, and the logits of all positions."""
    llm = heddle.LLM(path, threads=2, target=target)
    params = heddle.SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    tokens = [list(output.outputs[0].token_ids) for output in llm.generate(PROMPTS, params)]
    return tokens, llm.forward(tokens)


def check_bits(path: Path, targets: Sequence[str]) -> None:
    """All targets of an artifact give the tokens and the logits of the one that this machine takes."""
    tokens, logits = answers(path, "native")
    assert len({tuple(t) for t in tokens}) == len(PROMPTS)
    for name in targets:
        found, others = answers(path, name)
        assert found == tokens, name
        for mine, theirs in zip(logits, others, strict=True):
            np.testing.assert_array_equal(mine.view(np.int32), theirs.view(np.int32), name)


def test_the_least_target_gives_the_bits_of_the_best(pair: Path) -> None:
    manifest = read_manifest(pair)
    assert [target.name for target in manifest.targets] == PAIR
    assert len(manifest.weights) == 1, "both read the same weights"
    check_bits(pair, PAIR[1:])


def test_a_machine_with_less_takes_less(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU had the flags of each profile alone."""
    for name in PAIR:
        monkeypatch.setattr(artifact_module, "cpu_features", lambda name=name: PROFILES[name].features)
        assert artifact_module.open_artifact(pair).target.name == name


# ------------------------------------------------------------------------------------------------------ the command line
RUNS = {
    "run": ["hi"],
    "embed": ["hi"],
    "chat": [],
    "serve": ["--port", "0"],
    "bench latency": [],
    "bench throughput": [],
    "eval perplexity": ["--text", ROOT / "README.md"],
}


@pytest.mark.parametrize("verb", RUNS)
def test_every_verb_that_runs_takes_a_target(verb: str, tinydoc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, *verb.split(), tinydoc, *RUNS[verb], "--target", "vax")
    assert (code, "the artifact has no target 'vax'" in err) == (1, True), err
    assert f"it has {resolve_target().name}" in err


def test_two_models_have_two_targets(pair: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("A page table maps virtual addresses to physical ones. " * 8)
    targets = ("--target-a", resolve_target().name, "--target-b", PORTABLE[-1])
    code, out, err = call(capsys, "eval", "compare", pair, pair, "--text", text, *targets, "--json")
    assert code == 0, err
    assert json.loads(out)["kl_max"] == 0.0
    code, _, err = call(capsys, "eval", "compare", pair, pair, "--text", text, "--target-b", "vax")
    assert (code, "no target 'vax'" in err) == (1, True)


def test_run_says_its_target(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for asked, expected in (("native", resolve_target().name), ("portable", resolve_target().name)):
        args = ("run", pair, "hi", "--max-tokens", 1, "--threads", 2, "--target", asked, "--json")
        assert json.loads(call(capsys, *args)[1])["target"] == expected


def test_a_server_has_its_own_target(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "chat", "http://127.0.0.1:1", "--target", "native")
    assert (code, "--target is for a model that runs here" in err) == (2, True)


# ------------------------------------------------------------------------------------------ what this machine cannot do
def test_another_machines_target_is_refused_before_compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path))
    with pytest.raises(ArtifactError, match=f"cannot run the target {FOREIGN}") as caught:
        heddle.LLM(MODEL, target=FOREIGN)
    assert f"{FOREIGN} needs an {PROFILES[FOREIGN].arch} CPU" in caught.value.why
    with pytest.raises(HeddleError, match="unknown target 'vax'"):
        heddle.LLM(MODEL, target="vax")
    assert not list(tmp_path.iterdir()), "nothing was compiled"


def test_a_torch_module_is_for_one_target_of_this_machine(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"cannot run the target {FOREIGN}"):
        heddle.compile_torch("module.py:make", tmp_path / "m", target=FOREIGN)
    with pytest.raises(HeddleError, match="one library") as caught:
        heddle.compile_torch("module.py:make", tmp_path / "m", target="portable")
    assert all(name in caught.value.what for name in PORTABLE)


@pytest.fixture
def no_cross_compiler(monkeypatch: pytest.MonkeyPatch) -> str:
    """The variable that points to a cross compiler which does not exist."""
    variable = f"HEDDLE_CXX_{PROFILES[FOREIGN].arch.upper()}"
    monkeypatch.setenv(variable, NOWHERE)
    return variable


def test_no_cross_compiler_is_said_before_any_work(
    no_cross_compiler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work: list[str] = []
    with pytest.raises(HeddleError, match=rf"no C\+\+ compiler for {PROFILES[FOREIGN].arch}"):
        heddle.compile_model(
            MODEL, tmp_path / "a", target=["native", FOREIGN], progress=lambda what, done, total: work.append(what)
        )
    assert (work, list(tmp_path.iterdir())) == ([], [])
    code, _, err = call(capsys, "compile", MODEL, "-o", tmp_path / "a", "--target", "native", "--target", FOREIGN)
    assert code == 1
    assert f"looked for {NOWHERE}" in err
    assert f"install g++-{PROFILES[FOREIGN].arch}-linux-gnu, or set {no_cross_compiler} to a C++ compiler" in err


def test_check_looks_at_targets(no_cross_compiler: str, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = [
        name for name, profile in PROFILES.items() if profile.arch == PROFILES[FOREIGN].arch and profile.portable
    ]
    targets = [argument for name in foreign for argument in ("--target", name)]
    code, out, _ = call(capsys, "check", MODEL, *targets, "--json")
    (problem,) = (p for p in json.loads(out)["problems"] if p["severity"] == "error")
    assert code == 1
    assert problem["what"] == f"there is no C++ compiler for {PROFILES[FOREIGN].arch}"
    assert no_cross_compiler in problem["fix"]
    assert call(capsys, "check", MODEL, "--target", "native")[0] == 0
    code, _, err = call(capsys, "check", MODEL, "--target", "vax")
    assert (code, "unknown target 'vax'" in err) == (1, True)


def test_doctor_lists_targets(
    no_cross_compiler: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(call(capsys, "doctor", "--json")[1])
    assert set(found["targets"]) == set(PROFILES)
    assert found["targets"][resolve_target().name]["runs"]
    assert found["targets"][resolve_target().name]["linker"] == found["linker"]
    assert found["targets"][FOREIGN]["needs"] == f"an {PROFILES[FOREIGN].arch} CPU"
    assert no_cross_compiler in found["targets"][FOREIGN]["fix"]
    least = min((PROFILES[name] for name in PORTABLE), key=lambda profile: profile.rank)
    monkeypatch.setattr(artifact_module, "cpu_features", lambda: least.features - {"fma"})
    lines = call(capsys, "doctor")[1].splitlines()
    (line,) = (line for line in lines if line.startswith(f"{least.name} "))
    assert "needs fma; linked by" in line
    (line,) = (line for line in lines if line.startswith(FOREIGN))
    assert f"no linker: install g++-{PROFILES[FOREIGN].arch}-linux-gnu" in line


def test_doctor_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where artifacts only run, TVM's compiler is left out, and nothing that needs it may be imported."""
    monkeypatch.setattr("heddle.runtime.tvm.can_compile", lambda: False)
    monkeypatch.setitem(sys.modules, "heddle.schedules.target", None)
    monkeypatch.setitem(sys.modules, "heddle.compiler.codegen", None)
    code, out, err = call(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == (1 if found["problems"] else 0), err
    assert found["target"].startswith("artifacts alone")
    assert found["targets"] == {}


def test_foreign_artifacts_can_be_inspected(tinydoc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = copy_artifact(tinydoc, tmp_path)
    edit_manifest(foreign, lambda raw: raw["targets"][0].update(arch="riscv64", features=["rva23"]))
    code, out, _ = call(capsys, "inspect", foreign, "--verify")
    assert code == 0
    assert "not on this machine, which lacks an riscv64 CPU): rva23" in out
    assert json.loads(call(capsys, "inspect", foreign, "--json")[1])["targets"][0]["arch"] == "riscv64"
    code, _, err = call(capsys, "run", foreign, "hi")
    assert (code, "can run no target of the artifact" in err) == (1, True)
