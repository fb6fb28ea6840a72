"""Bitwise batch invariance: a request's logits do not depend on its batch, its chunks, or the number of threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from heddle.runtime.model import ModelRunner
from tests.model_tools import Sequences, runner_of

LENGTHS = (2000, 3, 700, 129, 1, 64, 333, 18)
POOL = 4096


@pytest.fixture(scope="module")
def tokens() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(3, 4096, n).astype(np.int32) for n in LENGTHS]


@pytest.fixture(scope="module")
def runner(tinydoc: Path) -> ModelRunner:
    return runner_of(tinydoc, tokens=POOL)


@pytest.fixture(scope="module")
def alone(runner: ModelRunner, tokens: list[np.ndarray]) -> list[np.ndarray]:
    """Each request by itself, in chunks of 512."""
    return [Sequences(runner, [t]).finish(chunk=512)[0] for t in tokens]


@pytest.mark.parametrize("chunk", [7, 64, 512])
def test_a_batch_of_eight(runner: ModelRunner, tokens: list[np.ndarray], alone: list[np.ndarray], chunk: int) -> None:
    together = Sequences(runner, tokens, seed=chunk).finish(chunk=chunk)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


@pytest.mark.parametrize(("index", "chunk"), [(0, 7), (0, 64), (2, 1), (3, 1), (0, 512)])
def test_chunks(runner: ModelRunner, tokens: list[np.ndarray], alone: list[np.ndarray], index: int, chunk: int) -> None:
    (logits,) = Sequences(runner, [tokens[index]], seed=5).finish(chunk=chunk)
    np.testing.assert_array_equal(logits.view(np.int32), alone[index].view(np.int32))


@pytest.mark.slow
def test_two_thousand_tokens_one_by_one(runner: ModelRunner, tokens: list[np.ndarray], alone: list[np.ndarray]) -> None:
    (logits,) = Sequences(runner, [tokens[0]], seed=6).finish(chunk=1)
    np.testing.assert_array_equal(logits.view(np.int32), alone[0].view(np.int32))


CHILD = """
import sys
import numpy as np
from pathlib import Path
from tests.model_tools import Sequences, runner_of
tokens = [np.load(f) for f in sorted(Path(sys.argv[3]).glob("tokens*.npy"))]
runner = runner_of(Path(sys.argv[1]), threads=int(sys.argv[2]), tokens=4096)
assert runner.threads == int(sys.argv[2])
for i, logits in enumerate(Sequences(runner, tokens).finish(chunk=100)):
    np.save(f"{sys.argv[3]}/logits{i}.npy", logits)
"""


@pytest.mark.parametrize("threads", [1, 4])
def test_threads(
    tinydoc: Path, tokens: list[np.ndarray], alone: list[np.ndarray], tmp_path: Path, threads: int
) -> None:
    """In a process of its own: a thread pool has one size for its life."""
    for i, t in enumerate(tokens):
        np.save(tmp_path / f"tokens{i}.npy", t)
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", CHILD, str(tinydoc), str(threads), str(tmp_path)], check=True, cwd=root)
    for i, expected in enumerate(alone):
        np.testing.assert_array_equal(np.load(tmp_path / f"logits{i}.npy").view(np.int32), expected.view(np.int32))


def test_free_pages_are_never_read(tinydoc: Path, tokens: list[np.ndarray], alone: list[np.ndarray]) -> None:
    fresh = runner_of(tinydoc, tokens=POOL)
    fresh.pool[:] = 0xFF  # every element of every page is NaN
    for a, b in zip(Sequences(fresh, tokens, seed=9).finish(chunk=50), alone, strict=True):
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))
