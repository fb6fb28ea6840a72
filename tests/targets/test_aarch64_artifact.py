"""One artifact for x86-64 and aarch64: the same tokens on all its targets, those of aarch64 in heddle-run under qemu."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

import heddle
from heddle.compiler.driver import compile_model
from heddle.compiler.native import build_runner
from heddle.runtime.artifact import read_manifest
from heddle.runtime.errors import HeddleError
from heddle.runtime.features import cpu_features
from heddle.schedules.target import PROFILES
from tests.conftest import ROOT
from tests.docs_tools import run_commands
from tests.targets.emulation import CPUS, emulated

PROMPTS = ["The command line option", "def main(", "To install the package, run", "A transaction is", "Grüße — 日本語"]
OPTIONS = ("--temperature=0", "--max-tokens=64", "--ignore-eos", "--threads=2", "--json")
HERE = [n for n, p in PROFILES.items() if p.portable and p.arch == "x86_64" and not p.missing_features(cpu_features())]
QUANTIZED: dict[str, dict[str, Any]] = {
    "w4a8, int8 cache": {"quant": "w4a8", "kv_dtype": "int8"},
    "w8a16, float32 cache": {"quant": "w8a16", "kv_dtype": "float32"},
}


@functools.cache
def runner() -> Path:
    """heddle-run for aarch64, cross-built."""
    return build_runner("aarch64").program


def test_a_compiler_for_another_architecture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_CXX_AARCH64", "g++")
    with pytest.raises(HeddleError, match="cannot link the library for aarch64-dotprod") as caught:
        compile_model(ROOT / "examples" / "tinydoc", tmp_path / "a.heddle", target="aarch64-dotprod")
    assert "HEDDLE_CXX_AARCH64" in str(caught.value)
    assert not list(tmp_path.iterdir())


def ask(artifact: Path, cpu: str, *options: object) -> dict[str, Any]:
    """What heddle-run for aarch64 answers on an emulated CPU."""
    done = emulated("aarch64", cpu, runner(), artifact, *PROMPTS, *OPTIONS, *options)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def by_python(artifact: Path, target: str) -> list[list[int]]:
    llm = heddle.LLM(artifact, threads=2, target=target)
    params = heddle.SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    return [list(output.outputs[0].token_ids) for output in llm.generate(PROMPTS, params)]


@pytest.fixture(scope="module", params=["as stored", *QUANTIZED])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param not in QUANTIZED:
        return Path(request.getfixturevalue("everywhere"))
    targets = [*HERE[:1], *CPUS]  # test_bitwise and test_quantized_model compare those of this machine
    output = tmp_path_factory.mktemp("quantized") / "tinydoc.heddle"
    return compile_model(ROOT / "examples" / "tinydoc", output, target=targets, **QUANTIZED[request.param])


def test_all_targets_give_the_same_tokens(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    names = [target.name for target in manifest.targets]
    assert len(manifest.weights) == 1, "all targets read the same weights"
    assert set(CPUS) < set(names)
    expected = by_python(artifact, "native")
    assert [len(tokens) for tokens in expected] == [64] * len(PROMPTS)
    assert len({tuple(tokens) for tokens in expected}) == len(PROMPTS)
    for name in set(HERE) & set(names):
        assert by_python(artifact, name) == expected, name
    for name, cpu in CPUS.items():
        found = ask(artifact, cpu)
        assert found["target"] == name, "the best one that the CPU can run"
        assert [output["token_ids"] for output in found["outputs"]] == expected, name


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    printed = run_commands("docs/targets/aarch64.md", tmp_path).splitlines()
    listed = [line.split()[1] for line in printed if line.startswith("target ")]
    assert listed == [target.name for target in read_manifest(tmp_path / "tinydoc.heddle").targets]
    assert set(CPUS) < set(listed)
    expected = heddle.LLM(tmp_path / "tinydoc.heddle", threads=2).generate(
        "The command", heddle.SamplingParams(temperature=0, max_tokens=8)
    )
    assert expected[0].outputs[0].text in "\n".join(printed)


def test_the_lesser_target_can_be_forced(everywhere: Path) -> None:
    lesser, better = CPUS
    found, other = ask(everywhere, CPUS[better], f"--target={lesser}"), ask(everywhere, CPUS[better])
    assert (found["target"], other["target"]) == (lesser, better)
    assert [o["token_ids"] for o in found["outputs"]] == [o["token_ids"] for o in other["outputs"]]


@pytest.mark.parametrize(
    ("cpu", "options", "message"),
    [
        ("cortex-a53", [], "aarch64-dotprod needs asimddp"),  # ARMv8.0
        (CPUS["aarch64-dotprod"], ["--target=aarch64-i8mm"], "aarch64-i8mm needs i8mm"),
        ("max", ["--target=x86-64-v3"], "x86-64-v3 needs an x86_64 CPU"),
    ],
)
def test_what_a_cpu_lacks_is_said(everywhere: Path, cpu: str, options: list[str], message: str) -> None:
    done = emulated("aarch64", cpu, runner(), everywhere, "hi", *options)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert done.stdout == ""
