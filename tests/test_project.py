"""The project's own rules: import directions, moved names, sizes, completeness of registries and tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from heddle.ir_passes.dialect import OPS
from heddle.ir_passes.pipeline import TvmPasses, phases
from heddle.ir_passes.sparse.catalog import __all__ as SPARSE
from heddle.schedules.catalog import __all__ as CATALOG
from heddle.schedules.registry import KERNELS
from heddle.schedules.target import profile_scope, resolve_target
from tests.conftest import ROOT

PACKAGES = ("heddle", "compiler", "models", "ir_passes", "schedules", "runtime")
LEAVES = {"manifest", "plans", "tokenizer", "features", "tvm", "errors", "safetensors", "memory", "artifact", "sampler"}
LEAVES |= {"chat_template"}  # `check` tries what a model brings
LEAVES |= {"module", "module_manifest"}  # the compiler tries what it has made of a torch module
TVM_MODULES = {Path("schedules/compat.py"), Path("runtime/tvm.py")}
TORCH_MODULE = Path("compiler/torch_export/child.py")  # the program of a process of its own
FILES = [p.relative_to(ROOT) for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
OTHERS = [
    p.relative_to(ROOT) for folder in ("tests", "benchmarks", "examples") for p in sorted((ROOT / folder).rglob("*.py"))
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imports(file: Path) -> list[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    home = ["heddle", *file.parts[:-1]] if file.parts[0] != "heddle" else list(file.parts[:-1])
    found = []
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            found += [".".join([*module, alias.name]) for alias in node.names]
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_down(file: Path) -> None:
    rank = {package: i for i, package in enumerate(PACKAGES)}
    mine = file.parts[0]
    for name in imports(file):
        parts = name.split(".")
        if parts[0] != "heddle" or len(parts) < 2:
            continue
        other = parts[1] if parts[1] in rank else "heddle"
        if name == "heddle.__version__":
            continue
        assert rank[other] >= rank[mine], f"{file} imports {name}, which is above it"
        if other == "runtime" and mine not in ("runtime", "heddle"):
            assert parts[2] in LEAVES, f"{file} imports {name}; only the runtime's leaf modules are for everyone"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_only_two_modules_import_tvm_and_one_process_torch(file: Path) -> None:
    roots = {name.split(".")[0] for name in imports(file)}
    assert "torch" not in roots or file == TORCH_MODULE
    if file not in TVM_MODULES | {TORCH_MODULE}:
        assert not roots & {"tvm", "tvm_ffi"}, f"{file} imports TVM; take the names from schedules/compat.py"


@pytest.mark.parametrize("file", [f for f in OTHERS if f.parts[0] != "tests"], ids=str)
def test_benchmarks_and_examples_do_without_torch(file: Path) -> None:
    assert "torch" not in {name.split(".")[0] for name in imports(file)}


@pytest.mark.parametrize("file", [*FILES, *OTHERS], ids=str)
def test_files_are_small(file: Path) -> None:
    lines = len((ROOT / file).read_text().splitlines())
    assert lines <= 400, f"{file} has {lines} lines: it is two things"


def test_every_pass_has_its_three_tests() -> None:
    own = [phase.name for phase in phases(64, {}) if not isinstance(phase, TvmPasses)]
    assert len(own) >= 9
    for name in own:
        text = (ROOT / "tests" / "passes" / f"test_{name}.py").read_text()
        for kind in ("test_expected", "test_must_not_fire", "test_numeric"):
            assert re.search(rf"^def {kind}", text, re.MULTILINE), f"tests/passes/test_{name}.py has no {kind}"


def test_every_kernel_and_op_can_be_judged() -> None:
    factories = {name for name in (*CATALOG, *SPARSE) if name not in ("row_tile", "scheme_obstacle")}
    assert factories == set(KERNELS), "the catalogs and the registry disagree"
    for kernel in KERNELS.values():
        assert kernel.cases, f"kernel {kernel.name} has no cases"
        assert kernel.tolerance.why
    with profile_scope(resolve_target()):
        for op in OPS.values():
            assert op.tolerance.why
            for dtype in op.dtypes:
                assert op.samples(np.random.default_rng(0), dtype), f"{op.name} has no samples for {dtype}"


def test_kernel_files_register_something_or_are_shared_parts() -> None:
    files = [file for folder in ("schedules", "ir_passes") for file in (ROOT / folder).rglob("*.py")]
    texts = {file: file.read_text() for file in files}
    for file in (ROOT / "schedules" / "cpu").glob("[!_]*.py"):
        users = [f for f, text in texts.items() if f != file and re.search(rf"\b{file.stem} import", text)]
        assert "@kernel(" in texts[file] or users, f"{file.name} registers no kernel, and none uses it"


def test_pins_are_exact() -> None:
    requirements = PROJECT["project"]["dependencies"]
    assert "apache-tvm==0.27.0.post1" in requirements
    assert "apache-tvm-ffi==0.1.14.post1" in requirements
    assert {"serve", "grammar", "torch", "ray", "dev"} <= set(PROJECT["project"]["optional-dependencies"])


def test_the_package_list_is_complete() -> None:
    folders = {p.parent.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("__init__.py")}
    names = {".".join(f.parts if f.parts[0] == "heddle" else ("heddle", *f.parts)) for f in folders}
    assert names == set(PROJECT["tool"]["setuptools"]["packages"])


def test_importing_the_face_and_the_compiler_is_lean() -> None:
    code = (
        "import sys, heddle; assert 'numpy' not in sys.modules and 'tvm' not in sys.modules;"
        "import heddle.compiler.driver, heddle.compiler.torch_export.compile; assert sys.modules.get('torch') is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_no_path_of_a_machine_is_in_the_tree() -> None:
    folders = (*PACKAGES, "tests", "benchmarks", "examples", "docs")
    files = [p for p in ROOT.iterdir() if p.suffix in (".md", ".toml") or p.name == "Makefile"] + [ROOT / ".ci" / "run"]
    files += [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".toml")]
    texts = {p: p.read_text() for p in files if p.is_file() and p != Path(__file__)}
    assert len(texts) > len(FILES)
    for file, text in texts.items():
        found = re.search(r"(?<![\w.])/(work|home|root)/", text)
        assert not found, f"{file.relative_to(ROOT)} names a machine's path: {found}"
