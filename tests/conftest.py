"""What all tests share: two threads, and the example model compiled once."""

from __future__ import annotations

import os

os.environ.setdefault("TVM_NUM_THREADS", "2")
os.environ.setdefault("TVM_BIND_THREADS", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files with what the tests find")


@pytest.fixture(scope="session")
def tinydoc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model as an artifact; copy it before damaging it."""
    from heddle.compiler.driver import compile_model

    return compile_model(ROOT / "examples" / "tinydoc", tmp_path_factory.mktemp("tinydoc") / "tinydoc.heddle")
