"""The native runtime as files: how large it is, how much memory it takes, and how other programs use the library."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import heddle
from tests.conftest import ROOT
from tests.native_tools import ask, call, heddle_run, installed

pytestmark = pytest.mark.timeout(1800)  # the first tests build the library

LIMIT = 8_000_000
"""Bytes of the program and all libraries that it brings."""


def test_peak_memory_is_below_that_of_python(tinydoc: Path) -> None:
    found = ask(heddle_run(), tinydoc, "The command", "--max-tokens=64", "--threads=2")
    code = (
        "import sys, heddle\n"
        "llm = heddle.LLM(sys.argv[1], threads=2)\n"
        "llm.generate('The command', heddle.SamplingParams(max_tokens=64, temperature=0.7))\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM')))\n"
    )
    python = subprocess.run(
        [sys.executable, "-c", code, str(tinydoc)], capture_output=True, text=True, check=True
    ).stdout
    assert 0 < found["stats"]["peak_memory"] < int(python) / 2


def test_program_and_libraries_are_small() -> None:
    beside = (heddle_run().parents[1] / "lib").iterdir()
    files = [heddle_run(), *(file for file in beside if file.is_file() and not file.is_symlink())]
    assert sum(file.stat().st_size for file in files) < LIMIT
    assert {file.name.partition(".")[0] for file in files} >= {"heddle-run", "libtvm_ffi", "libtvm_runtime"}


@pytest.mark.parametrize("found_by", ["pkg-config", "cmake"])
def test_other_programs_embed_the_library(tinydoc: Path, tmp_path: Path, found_by: str) -> None:
    """examples/embed.c as it says itself, with an installed library that was moved after installing."""
    prefix = tmp_path / "moved"
    shutil.copytree(installed(), prefix, symlinks=True)
    source = ROOT / "runtime" / "native" / "examples"
    program = tmp_path / "build" / "embed"
    program.parent.mkdir()
    if found_by == "cmake":
        options = ["-S", str(source), "-B", str(program.parent), f"-DCMAKE_PREFIX_PATH={prefix}"]
        commands = [["cmake", *options], ["cmake", "--build", str(program.parent)]]
    else:
        tool = shutil.which("pkg-config")
        assert tool, "pkg-config is missing (Debian: apt-get install pkg-config)"
        flags = f"$(PKG_CONFIG_PATH={prefix}/lib/pkgconfig {tool} --cflags --libs heddle)"
        commands = [["sh", "-c", f"cc -std=c99 -Wall -Wextra -Werror {source}/embed.c {flags} -o {program}"]]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    done = call(program, tinydoc, "The command line option")
    expected = heddle.LLM(tinydoc, threads=2).generate(
        "The command line option", heddle.SamplingParams(temperature=0.0, max_tokens=32)
    )[0]
    assert (done.returncode, done.stdout) == (0, expected.outputs[0].text)
    assert (
        f"{len(expected.outputs[0].token_ids)} tokens after a prompt of {len(expected.prompt_token_ids)}" in done.stderr
    )
    refused = call(program, tmp_path, "hi")
    assert refused.returncode == 1
    assert "is not an artifact" in refused.stderr
