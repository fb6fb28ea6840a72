"""Older x86-64 CPUs, by qemu: one without AVX2 gets the refusal and its reason, one with it takes the library for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native_tools import heddle_run
from tests.targets.emulation import emulated

OPTIONS = ("--temperature=0", "--max-tokens=16", "--threads=1", "--json")
PROMPT = "The command line option"
PROGRAMS = ("python", "heddle-run")


def command(program: str, *arguments: object) -> list[str]:
    """`heddle run`, or the native runner."""
    start = [sys.executable, "-m", "heddle.cli", "run"] if program == "python" else [str(heddle_run())]
    return [*start, *map(str, arguments)]


def tokens(done: subprocess.CompletedProcess[str]) -> tuple[list[int], str]:
    """The tokens of one answer and the target that gave them."""
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found.get("token_ids") or found["outputs"][0]["token_ids"], found["target"]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("cpu", ["Nehalem", "SandyBridge"])
def test_a_cpu_without_avx2_gets_the_reason(everywhere: Path, program: str, cpu: str) -> None:
    done = emulated("x86_64", cpu, *command(program, everywhere, PROMPT, *OPTIONS))
    assert done.returncode == 1, done.stderr
    assert "this machine (x86_64) can run no target of the artifact" in done.stderr
    assert "x86-64-v3 needs abm" in done.stderr
    assert "aarch64-dotprod needs an aarch64 CPU" in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["fix"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_cpu_with_avx2_takes_the_library_for_it(everywhere: Path, program: str) -> None:
    done = emulated("x86_64", "Haswell", *command(program, everywhere, PROMPT, *OPTIONS))
    here = subprocess.run(command(program, everywhere, PROMPT, *OPTIONS), capture_output=True, text=True)
    found, target = tokens(done)
    assert target == "x86-64-v3"
    assert found == tokens(here)[0]
    assert len(found) == 16


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wider_target_is_not_forced_upon_it(everywhere: Path, program: str) -> None:
    arguments = (everywhere, PROMPT, *OPTIONS, "--target=x86-64-v4")
    done = emulated("x86_64", "Haswell", *command(program, *arguments))
    assert done.returncode == 1, done.stderr
    assert "cannot run the target x86-64-v4" in done.stderr
    assert "needs avx512bw, avx512cd, avx512dq, avx512f, avx512vl" in done.stderr


def test_an_old_cpu_inspects_and_checks(everywhere: Path) -> None:
    """What does not run the model works."""
    done = emulated("x86_64", "Nehalem", sys.executable, "-m", "heddle.cli", "inspect", everywhere)
    assert done.returncode == 0, done.stderr
    assert "x86-64-v3 (x86_64" in done.stdout
    assert "not on this machine, which lacks abm, avx, avx2, bmi1, bmi2, f16c, fma, movbe" in done.stdout
    done = emulated("x86_64", "Nehalem", sys.executable, "-m", "heddle.cli", "doctor", "--json")
    assert done.returncode == 1, "no profile fits"
    assert json.loads(done.stdout)["targets"]["x86-64-v3"]["runs"] is False
