"""Packages run where there is nothing: roots with a C and a C++ library alone, on this machine's CPU and on an emulated one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import heddle
from heddle.compiler.driver import compile_model
from heddle.compiler.native import build_runner
from heddle.compiler.native.package import package_model
from heddle.compiler.native.runner import needed, read_elf
from heddle.runtime.features import architecture
from tests.conftest import ROOT
from tests.docs_tools import run_commands
from tests.root_tools import LIBRARIES, LOADERS, bare_root, inside

TARGETS = {"x86_64": "x86-64-v3", "aarch64": "aarch64-dotprod"}
PROMPTS = ["The command line option", "def main("]
TOKENS = 16
MOST = 8_000_000
"""Bytes of the program and its libraries."""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model for both architectures."""
    output = tmp_path_factory.mktemp("artifact") / "tinydoc.heddle"
    return compile_model(ROOT / "examples" / "tinydoc", output, target=list(TARGETS.values()))


@pytest.fixture(scope="module")
def expected(artifact: Path) -> list[list[int]]:
    """Tokens of the Python runtime, of the target that this machine runs."""
    llm = heddle.LLM(artifact, threads=2, target=TARGETS[architecture()])
    outputs = llm.generate(PROMPTS, heddle.SamplingParams(temperature=0, max_tokens=TOKENS))
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.fixture(scope="module", params=TARGETS)
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def package(arch: str, artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package, inside of a root that has what every system has and no more."""
    root = bare_root(tmp_path_factory.mktemp(f"root-{arch}"), arch)
    made = package_model(artifact, root / "package", arch=arch)
    assert made.targets == (TARGETS[arch],)
    return made.path


def options(prompts: list[str]) -> list[str]:
    return ["--json", "--temperature=0", f"--max-tokens={TOKENS}", "--threads=2", "--kv-memory=16MB", "--", *prompts]


def tokens(done: subprocess.CompletedProcess[bytes]) -> list[list[int]]:
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return [output["token_ids"] for output in found["outputs"]]


def test_it_runs_with_the_system_libraries_alone(package: Path, arch: str, expected: list[list[int]]) -> None:
    root = package.parent
    system = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and package not in p.parents}
    own = {f"lib/{arch}-linux-gnu/{name}" for name in LIBRARIES} | {LOADERS[arch].lstrip("/")}
    assert system == own | ({"emulator"} if arch != architecture() else set())
    done = inside(root, arch, "/package/bin/heddle-run", "/package/model", *options(PROMPTS))
    assert tokens(done) == expected


def test_what_it_refuses_it_explains(package: Path, arch: str) -> None:
    manifest = package / "model" / "manifest.json"
    text = manifest.read_text()
    try:
        manifest.write_text(text.replace(f'"name": "{TARGETS[arch]}"', '"name": "other"'))
        done = inside(
            package.parent, arch, "/package/bin/heddle-run", "/package/model", f"--target={TARGETS[arch]}", "x"
        )
    finally:
        manifest.write_text(text)
    assert done.returncode == 1
    assert b"other" in done.stderr
    assert b"fix" in done.stderr


def test_program_and_libraries_are_small(package: Path) -> None:
    sizes = {p.name: p.stat().st_size for part in ("bin", "lib") for p in (package / part).iterdir()}
    assert sum(sizes.values()) < MOST, sizes
    for name in sizes:
        assert not name.startswith("libtvm_compiler")


def test_nothing_in_it_is_of_another_architecture(package: Path, arch: str) -> None:
    machine = {"x86_64": "X86-64", "aarch64": "AArch64"}[arch]
    files = [p for part in ("bin", "lib", "model/lib") for p in (package / part).iterdir()]
    assert len(files) >= 5
    for file in files:
        assert machine in read_elf(file, "-h"), f"{file.name} is for another machine"


def test_libraries_are_found_beside_the_program_and_nowhere_else(package: Path) -> None:
    shipped = {p.name for p in (package / "lib").iterdir()}
    for file in [package / "bin" / "heddle-run", *(package / "lib").iterdir()]:
        paths = [line for line in read_elf(file, "-d").splitlines() if "PATH)" in line]
        assert all("[$ORIGIN" in line for line in paths), paths
        assert {n for n in needed(file) if not n.startswith("ld-linux")} <= shipped | set(LIBRARIES)


@pytest.mark.parametrize("arch", [architecture()], indirect=True)
def test_the_script_runs_from_anywhere(package: Path, tmp_path: Path, expected: list[list[int]]) -> None:
    moved = tmp_path / "with a space"
    shutil.copytree(package, moved)
    (tmp_path / "link").symlink_to(moved / "run.sh")
    plain = {"PATH": os.environ["PATH"]}
    done = subprocess.run([str(tmp_path / "link"), *options(PROMPTS)], cwd="/", env=plain, capture_output=True)
    assert tokens(done) == expected


def test_a_second_build_is_the_first_one(arch: str) -> None:
    program = build_runner(arch).program
    built = program.stat().st_mtime_ns
    assert build_runner(arch).program.stat().st_mtime_ns == built


def test_a_checkpoint_is_compiled_for_the_package(tmp_path: Path) -> None:
    made = package_model(
        ROOT / "examples" / "tinydoc", tmp_path / "out", targets=[TARGETS[architecture()]], kv_dtype="int8"
    )
    done = subprocess.run([str(made.path / "run.sh"), *options(PROMPTS[:1])], capture_output=True)
    assert len(tokens(done)[0]) == TOKENS


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    said = run_commands("docs/targets/packaging.md", tmp_path)
    assert f"run it: {tmp_path}/package/run.sh" in said
    assert (tmp_path / "package-arm" / "model" / "lib" / "aarch64-dotprod.so").is_file()
