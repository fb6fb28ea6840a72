"""Deployment: an artifact runs where neither the compiler library nor torch is ever loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import heddle
from heddle.runtime.errors import ArtifactError
from tests.conftest import ROOT
from tests.model_tools import Sequences, runner_of

CHILD = """
import json, sys
import numpy as np
from heddle.runtime.artifact import open_artifact
from heddle.runtime.model import ModelRunner
from heddle.runtime.plans import PlanSequence

runner = ModelRunner(open_artifact(sys.argv[1], verify="full"), threads=2)
tokens = json.loads(sys.argv[2])
pages = np.arange(4, dtype=np.int32)
given, done = np.array(tokens, np.int32), 0
for _ in range(int(sys.argv[3])):
    logits = runner.forward([PlanSequence(pages, done, len(given))], given, np.array([len(given) - 1], np.int32))
    done += len(given)
    tokens.append(int(logits[0].argmax()))
    given = np.array(tokens[-1:], np.int32)
libraries = {line.split("/")[-1].strip() for line in open("/proc/self/maps") if "/" in line}
print(json.dumps({"tokens": tokens, "libraries": sorted(libraries), "modules": sorted(sys.modules)}))
"""
PROMPT = [5, 100, 7, 9, 2000, 31]
STEPS = 12


def test_the_compiler_is_not_mapped(tinydoc: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tinydoc), json.dumps(PROMPT), str(STEPS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    child = json.loads(done.stdout)
    libraries = child["libraries"]
    assert any(name.startswith("x86-64") or name.startswith("aarch64") for name in libraries)  # the listing works
    assert any(name.startswith("libtvm_runtime") for name in libraries)
    assert not [name for name in libraries if "compiler" in name or "LLVM" in name or "torch" in name]
    modules = set(child["modules"])
    assert "tvm_ffi" in modules
    assert not modules & {"tvm", "torch", "transformers", "safetensors"}
    assert not [m for m in modules if m.startswith(("heddle.compiler", "heddle.ir_", "heddle.models", "heddle.sched"))]

    # In this process, which has compiled, the same tokens come out.
    tokens = np.array(child["tokens"], np.int32)
    (logits,) = Sequences(runner_of(tinydoc, tokens=256), [tokens]).finish(chunk=64)
    np.testing.assert_array_equal(logits[len(PROMPT) - 1 : -1].argmax(1), tokens[len(PROMPT) :])


def test_the_compiler_library_would_be_seen() -> None:
    """The same listing, in a process that imports the compiler: a renamed library would show here."""
    code = "import heddle.compiler.driver; print(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "libtvm_compiler" in done.stdout


def test_without_the_compiler_only_artifacts_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libtvm_runtime.so").touch()
    monkeypatch.setenv("TVM_LIBRARY_PATH", str(tmp_path))
    with pytest.raises(ArtifactError, match=r"nowhere does not exist(.|\n)*no compiler(.|\n)*heddle compile"):
        heddle.LLM(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="tinydoc is not an artifact"):
        heddle.LLM(ROOT / "examples" / "tinydoc")
