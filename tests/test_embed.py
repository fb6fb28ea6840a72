"""Embeddings: pooled as by NumPy over hidden states, and as transformers gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heddle.embed import Pool
from heddle.llm import LLM
from heddle.runtime.errors import HeddleError, RequestError
from heddle.runtime.null_runner import HIDDEN, history_hidden

from .conftest import ROOT
from .llm_tools import null_artifact
from .model_tools import relative_error

TEXTS = ["The command line option", "x", "A transaction is a unit of work. " * 12]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture
def null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LLM:
    return LLM(null_artifact(tmp_path, monkeypatch))


@pytest.fixture(scope="module")
def llm(tinydoc: Path) -> LLM:
    return LLM(tinydoc, threads=2)


def test_pools_of_known_states(null: LLM) -> None:
    """More tokens than a step takes, several texts in a step, and prefixes in the cache."""
    sequences = [list(range(5, 5 + n)) for n in (1, 70, 3, 200)]
    states = [history_hidden(np.array(ids)) for ids in sequences]
    mean = np.array([s.astype(np.float64).mean(0) for s in states])
    last = np.array([s[-1] for s in states])
    for _ in range(2):
        np.testing.assert_allclose(null.embed(sequences, normalize=False), mean, rtol=1e-6)
        np.testing.assert_allclose(null.embed(sequences), unit(mean), rtol=1e-6)
        assert np.array_equal(null.embed(sequences, "last", False), last)
        np.testing.assert_allclose(null.embed(sequences, "last"), unit(last), rtol=1e-6)
    assert null.metrics.cached_tokens > 0
    assert null.embed([]).shape == (0, HIDDEN)
    assert null.embed(sequences[1]).shape == (1, HIDDEN)
    null.engine.check_integrity()


def test_chunks_change_no_bit() -> None:
    states = np.random.default_rng(0).normal(0, 1, (301, 7)).astype(np.float32)
    whole = Pool("mean", True)
    whole(0, states)
    for size in (1, 16, 37):
        pool = Pool("mean", True)
        for start in range(0, len(states), size):
            pool(start, states[start : start + size])
        assert np.array_equal(pool.vector(), whole.vector())


def test_zeros_and_what_is_not_finite() -> None:
    pool = Pool("last", True)
    pool(0, np.zeros((1, 4), np.float32))
    assert np.array_equal(pool.vector(), np.zeros(4, np.float32))
    pool = Pool("mean", False)
    pool(0, np.array([[1, np.inf]], np.float32))
    with pytest.raises(HeddleError, match="hidden states of the model are not finite"):
        pool.vector()


def test_bad_input(null: LLM) -> None:
    with pytest.raises(
        RequestError, match=r"prompts\[0\]: pooling is 'max'; allowed are 'mean', 'cls', 'last', and None"
    ):
        null.embed("x", pooling="max")
    with pytest.raises(RequestError, match=r"prompts\[1\]: the prompt is empty"):
        null.embed(["x", ""])
    with pytest.raises(RequestError, match=r"prompts\[0\]: token ids must be one flat list"):
        null.embed([1.5])  # type: ignore[list-item]
    with pytest.raises(RequestError, match=r"prompts\[0\]: the prompt has 300 tokens"):
        null.embed([[1] * 300])


def test_the_same_as_transformers(llm: LLM) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(ROOT / "examples" / "tinydoc", dtype=torch.float32).eval()
    assert llm.tokenizer is not None
    with torch.no_grad():
        states = [model.model(torch.tensor([llm.tokenizer.encode(t)])).last_hidden_state[0].numpy() for t in TEXTS]
    for pooling, expected in (("mean", [s.mean(0) for s in states]), ("last", [s[-1] for s in states])):
        found = llm.embed(TEXTS, pooling, False)
        assert found.dtype == np.float32
        assert found.shape == (3, 256)
        assert relative_error(found, np.array(expected)) < 5e-3  # the cache holds float16
        np.testing.assert_allclose(np.linalg.norm(llm.embed(TEXTS, pooling), axis=1), 1, rtol=1e-6)


def test_a_text_alone_or_in_a_batch_has_the_same_bits(llm: LLM) -> None:
    for pooling in ("mean", "last"):
        together = llm.embed(TEXTS, pooling)
        assert np.array_equal(together, np.concatenate([llm.embed(text, pooling) for text in TEXTS]))
