"""The model runner: the same bits however a sequence is cut into steps, clear errors at its bounds, a report of its load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heddle.runtime import model as model_module
from heddle.runtime.artifact import open_artifact
from heddle.runtime.errors import ArtifactError, HeddleError, ManifestError
from heddle.runtime.model import Buffer, ModelRunner
from heddle.runtime.plans import PAGE, PlanSequence
from heddle.runtime.tvm import ResultMemory

from .artifact_tools import copy_artifact, edit_manifest
from .model_tools import Sequences, runner_of

LENGTH = 150


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(8).integers(3, 4096, LENGTH).astype(np.int32)


@pytest.fixture(scope="module")
def runner(tinydoc: Path) -> ModelRunner:
    return runner_of(tinydoc, tokens=1024)


@pytest.fixture(scope="module")
def prefill(runner: ModelRunner, tokens: np.ndarray) -> np.ndarray:
    """Logits of every position, computed in one step."""
    return Sequences(runner, [tokens]).finish(chunk=LENGTH)[0]


def same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 7, 8, 9, 64])
def test_chunks_give_the_bits_of_one_step(
    runner: ModelRunner, tokens: np.ndarray, prefill: np.ndarray, chunk: int
) -> None:
    """Among them the largest row counts of the small instances, and one more."""
    assert np.isfinite(prefill).all()
    same(Sequences(runner, [tokens], seed=chunk).finish(chunk=chunk)[0], prefill)


def test_prefill_then_decode(runner: ModelRunner, tokens: np.ndarray, prefill: np.ndarray) -> None:
    sequences = Sequences(runner, [tokens], seed=1)
    for rows in (100, 3, 1, 1, 9, 1, 35):
        sequences.step({0: rows})
    assert sequences.done == [LENGTH]
    same(sequences.logits[0], prefill)


def test_free_pages_are_never_read(tinydoc: Path, tokens: np.ndarray, prefill: np.ndarray) -> None:
    fresh = runner_of(tinydoc, tokens=1024)
    for chunk in (1, 64, LENGTH):
        fresh.pool[:] = 0xFF  # NaN in every float type
        same(Sequences(fresh, [tokens], seed=2).finish(chunk=chunk)[0], prefill)


def test_only_the_asked_rows(runner: ModelRunner, tokens: np.ndarray, prefill: np.ndarray) -> None:
    pages = np.arange(-(-LENGTH // PAGE), dtype=np.int32)
    plan = [PlanSequence(pages, 0, LENGTH)]
    for rows in ([LENGTH - 1], [0, 77, 3], [5] * 9, list(range(0, LENGTH, 2))):
        same(runner.forward(plan, tokens, np.array(rows, np.int32)), prefill[rows])
    assert runner.forward(plan, tokens, np.empty(0, np.int32)).shape == (0, runner.info.vocab_size)


def test_logits_are_computed_in_turns(
    tinydoc: Path, tokens: np.ndarray, prefill: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "LOGIT_BYTES", 4 * 4096 * 40)
    fresh = runner_of(tinydoc, tokens=1024)
    assert fresh._logit_rows == 40
    same(Sequences(fresh, [tokens]).finish(chunk=LENGTH)[0], prefill)


def test_results_of_a_step_outlive_the_next(runner: ModelRunner, tokens: np.ndarray, prefill: np.ndarray) -> None:
    sequences = Sequences(runner, [tokens])
    plan, row = [PlanSequence(sequences.pages[0], 0, 1)], np.zeros(1, np.int32)
    first = runner.forward(plan, tokens[:1], row)
    kept = first.copy()
    runner.forward(plan, tokens[1:2], row)
    same(first, kept)
    same(first[0], prefill[0])


# ------------------------------------------------------------------------------------------------------------- bounds
def step(runner: ModelRunner, rows: list[int], tokens: int | None = None, pages: int | None = None) -> np.ndarray:
    count = -(-max(rows, default=1) // PAGE) if pages is None else pages
    table = np.arange(count, dtype=np.int32) % runner.info.num_pages
    ids = np.zeros(sum(rows) if tokens is None else tokens, np.int32)
    return runner.forward([PlanSequence(table, 0, n) for n in rows], ids, np.zeros(1, np.int32))


def test_bounds_of_a_step(runner: ModelRunner) -> None:
    info = runner.info
    with pytest.raises(ValueError, match=f"{info.max_tokens + 1} new rows in one step.*max_tokens={info.max_tokens}"):
        step(runner, [info.max_tokens + 1])
    with pytest.raises(ValueError, match=f"{info.max_seqs + 1} sequences in one step.*max_seqs={info.max_seqs}"):
        step(runner, [1] * (info.max_seqs + 1))
    with pytest.raises(ValueError, match="sequence 0 has 2 pages, but its last row at position 39 needs 3"):
        step(runner, [40], pages=2)
    with pytest.raises(ValueError, match="5 tokens, but the sequences of this step have 1 new rows"):
        step(runner, [1], tokens=5)
    with pytest.raises(ValueError, match="1 tokens, but the sequences of this step have 5 new rows"):
        step(runner, [5], tokens=1)
    with pytest.raises(ValueError, match="but the vector holds"):
        step(runner, [1], pages=info.max_seqs * (info.num_pages + 2))
    with pytest.raises(HeddleError, match=f"{info.max_tokens + 1} rows in one step, the artifact was compiled for"):
        runner._body(info.max_tokens + 1)
    assert np.isfinite(step(runner, [info.max_seqs])).all()  # a refused step leaves no trace


def test_results_of_all_sizes_leave_little_behind(
    tinydoc: Path, tokens: np.ndarray, prefill: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TVM keeps what is freed by size; and giving it back, even before every step, touches nothing that is in use."""
    monkeypatch.setattr(model_module, "RESULT_BYTES", 1)
    runner = runner_of(tinydoc)
    pages, found = np.arange(-(-len(tokens) // PAGE), dtype=np.int32), {}
    for n in (3, 1, 20, len(tokens), 3):
        found[n] = runner.forward([PlanSequence(pages, 0, n)], tokens[:n], np.arange(n, dtype=np.int32))
    for n, logits in found.items():
        same(logits, prefill[:n])
    used, cleared, of_tvm = 0, [], ResultMemory(1000)
    of_tvm._clear = lambda: cleared.append(used)  # type: ignore[assignment]
    for used in (100, 200, 100, 200, 150, 60, 60, 400, 401):
        of_tvm.expect(used)
    assert cleared == [60, 401]


def test_buffers_share_their_memory() -> None:
    buffer = Buffer(8)
    assert buffer.view(3) is buffer.view(3)
    assert buffer.view(3).shape == (3,)
    buffer.array[:] = range(8)
    np.testing.assert_array_equal(np.from_dlpack(buffer.view(5)), np.arange(5))


# --------------------------------------------------------------------------------------------------------------- load
def test_load_report(runner: ModelRunner, tinydoc: Path) -> None:
    report = runner.load_report
    assert report.holding in ("mapped", "copied")
    assert report.bytes == (tinydoc / "weights.safetensors").stat().st_size == len(runner.weights)
    assert report.seconds < 5
    assert report.reason


def remove_symbol(raw: dict[str, Any]) -> None:
    raw["functions"][1]["instances"][0]["symbol"] = "body_0"


def other_shape(raw: dict[str, Any]) -> None:
    next(iter(raw["weights"][0]["tensors"].values()))["shape"][0] += 1


def other_name(raw: dict[str, Any]) -> None:
    raw["weights"][0]["tensors"]["extra"] = {"dtype": "float32", "shape": [1]}


def no_body(raw: dict[str, Any]) -> None:
    raw["functions"].pop(1)


@pytest.mark.parametrize(
    ("edit", "kind", "expected"),
    [
        (remove_symbol, ArtifactError, r".*\.so has no function 'body_0'"),
        (other_shape, ArtifactError, r"tensor '.*' of manifest\.weights is .*, weights\.safetensors has "),
        (other_name, ArtifactError, r"weights\.safetensors has no such tensor"),
        (no_body, ManifestError, r"manifest\.functions has no 'body'; it has embed, head"),
        (lambda raw: raw["caches"].clear(), HeddleError, "one paged cache group, the artifact has 0 groups"),
    ],
)
def test_manifest_and_files_disagree(
    tinydoc: Path, tmp_path: Path, edit: Any, kind: type[HeddleError], expected: str
) -> None:
    path = copy_artifact(tinydoc, tmp_path)
    edit_manifest(path, edit)
    with pytest.raises(kind, match=expected):
        ModelRunner(open_artifact(path), kv_bytes=1 << 22, threads=2)


def test_a_library_that_is_none(tinydoc: Path, tmp_path: Path) -> None:
    path = copy_artifact(tinydoc, tmp_path)
    artifact = open_artifact(path)
    (path / artifact.target.library).write_bytes(b"not a library")  # after the check: the last line of defence
    with pytest.raises(ArtifactError, match="cannot be loaded as a compiled library"):
        ModelRunner(artifact, kv_bytes=1 << 22, threads=2)


def test_a_library_in_the_place_of_another(tinydoc: Path, tmp_path: Path) -> None:
    """A name that dlopen knows is not looked up again: what was compiled to the same path since then has to be."""
    path = copy_artifact(tinydoc, tmp_path)
    artifact = open_artifact(path)
    first = ModelRunner(artifact, kv_bytes=1 << 22, threads=2)
    (path / artifact.target.library).unlink()
    (path / artifact.target.library).write_bytes(b"not a library")
    with pytest.raises(ArtifactError, match="cannot be loaded as a compiled library"):
        ModelRunner(artifact, kv_bytes=1 << 22, threads=2)
    (path / artifact.target.library).unlink()
    shutil.copy(tinydoc / artifact.target.library, path / artifact.target.library)
    second = ModelRunner(artifact, kv_bytes=1 << 22, threads=2)
    tokens = np.arange(3, 20, dtype=np.int32)
    results = [Sequences(runner, [tokens]).finish(chunk=32)[0] for runner in (first, second)]
    same(*results)
