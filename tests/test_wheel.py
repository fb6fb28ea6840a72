"""A wheel built from the tree installs and works outside of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SOURCES = ("heddle", "compiler", "models", "ir_passes", "schedules", "runtime")


def test_the_wheel_works_outside_of_the_tree(tmp_path: Path, tinydoc: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in SOURCES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(tree)], check=True)
    shutil.rmtree(tree)
    web = Path("heddle", "runtime", "server", "web")
    assert {p.name for p in (site / web).iterdir()} == {p.name for p in (ROOT / web.relative_to("heddle")).iterdir()}
    native = Path("heddle", "runtime", "native")
    sources = ROOT / native.relative_to("heddle")
    built_from = [p.relative_to(sources) for p in sources.rglob("[!.]*") if p.is_file()]
    assert len(built_from) > 10
    assert all((site / native / name).is_file() for name in built_from), (
        "heddle package builds from the wheel's sources"
    )
    # -P and PYTHONPATH: the wheel's files come before those of an editable installation.
    environment = os.environ | {"PYTHONPATH": str(site)}
    code = "import heddle.compiler.driver, heddle.runtime.engine; print(heddle.__file__)"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip().startswith(str(site))
    code = "from heddle.compiler.native.runner import sources; print(sources())"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str(site / native)
    command = [
        sys.executable,
        "-m",
        "heddle.cli",
        "run",
        str(tinydoc),
        "The",
        "--temperature",
        "0",
        "--max-tokens",
        "3",
        "--threads",
        "2",
    ]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
