"""Choosing tokens: the right distribution, and the same choice whatever the batch."""

from __future__ import annotations

import dataclasses
import pickle
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from heddle.runtime import sampler
from heddle.runtime.errors import RequestError
from heddle.runtime.sampler import NO_TOKEN, Draw, sample, uniform
from heddle.runtime.sampling import SamplingParams, UnknownOptionError


def draws(params: SamplingParams, count: int, seed: int = 0) -> list[Draw]:
    return [Draw(params, seed, position) for position in range(count)]


def kept_by_sorting(row: np.ndarray, params: SamplingParams) -> set[int]:
    """The candidates by the textbook: sort everything, cut at k, then at p (float64)."""
    order = np.lexsort((np.arange(len(row)), -row))
    if params.top_k > 0:
        order = order[: params.top_k]
    weights = np.exp((row[order].astype(np.float64) - row.max()) / params.temperature)
    before = np.cumsum(weights) - weights
    return set(order[before < params.top_p * weights.sum()].tolist())


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = np.array([[0, 3, 3, 1], [5, 5, 5, 5], [-1, -2, -np.inf, -1]], np.float32)
    assert sample(logits, draws(SamplingParams(temperature=0), 3)).tolist() == [1, 0, 0]
    assert sample(logits, draws(SamplingParams(top_k=1), 3)).tolist() == [1, 0, 0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-6])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    logits = np.array([[-1e30, 2.0, 1.999, 3e30]], np.float32)
    assert sample(logits, [Draw(SamplingParams(temperature=temperature), 5, 9)]).tolist() == [3]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_choice_does_not_harm_others(temperature: float) -> None:
    logits = np.array([[0, np.nan], [0, np.inf], [-np.inf, -np.inf], [-np.inf, 1]], np.float32)
    chosen = sample(logits, draws(SamplingParams(temperature=temperature), 4))
    assert chosen.tolist() == [NO_TOKEN, NO_TOKEN, NO_TOKEN, 1]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.7, top_k=5),
        SamplingParams(temperature=1.5, top_p=0.8),
        SamplingParams(top_k=6, top_p=0.6),
    ],
    ids=str,
)
def test_frequencies_are_the_probabilities(params: SamplingParams) -> None:
    """20,000 draws against the exact distribution: chi-squared under its 99.99th percentile (11 degrees of freedom)."""
    row = np.random.default_rng(0).normal(0, 1.5, 12).astype(np.float32)
    kept = sorted(kept_by_sorting(row, params))
    expected = np.exp(row[kept].astype(np.float64) / params.temperature)
    expected *= 20_000 / expected.sum()
    chosen = sample(np.tile(row, (20_000, 1)), draws(params, 20_000, seed=11))
    counts = np.bincount(chosen, minlength=12)
    assert counts[kept].sum() == 20_000
    assert ((counts[kept] - expected) ** 2 / expected).sum() < 40


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-3.0, -1.5, 0.0, 0.5, 1.0, 2.0, 4.0])),
    st.integers(0, 45),
    st.floats(0.01, 1.0),
    st.sampled_from([0.3, 1.0, 2.5]),
)
def test_only_candidates_are_chosen(row: np.ndarray, k: int, p: float, temperature: float) -> None:
    """Rows full of ties: every choice is among the textbook's candidates, give or take one at the rounded edge of p."""
    params = SamplingParams(temperature=temperature, top_k=k, top_p=p)
    allowed = kept_by_sorting(row, dataclasses.replace(params, top_p=min(1.0, p * (1 + 1e-5))))
    chosen = sample(np.tile(row, (50, 1)), draws(params, 50, seed=k))
    assert set(chosen.tolist()) <= allowed


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.data())
def test_the_choice_does_not_depend_on_the_batch(seed: int, count: int, data: st.DataObject) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (count, 333)).astype(np.float32)
    params = st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.5, 1.0]),
        top_k=st.sampled_from([0, 1, 7]),
        top_p=st.sampled_from([0.5, 0.95, 1.0]),
    )
    rows = [
        Draw(data.draw(params), data.draw(st.integers(0, 2**64 - 1)), data.draw(st.integers(0, 5000)))
        for _ in range(count)
    ]
    alone = [int(sample(logits[i : i + 1].copy(), [rows[i]])[0]) for i in range(count)]
    order = data.draw(st.permutations(range(count)))
    assert sample(logits[order], [rows[i] for i in order]).tolist() == [alone[i] for i in order]
    assert sample(np.asfortranarray(logits), rows).tolist() == alone


def test_uniform_numbers_are_uniform_and_independent() -> None:
    numbers = np.array([[uniform(seed, position) for position in range(300)] for seed in (0, 1, 2, 2**64 - 1)])
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert np.unique(numbers).size == numbers.size
    assert np.abs(numbers.mean(axis=1) - 0.5).max() < 0.06
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.2


def test_a_large_vocabulary_is_quick() -> None:
    """A wide margin over what is needed (1 to 3 ms a row), so that it fails only if a whole sort comes back in."""
    row = np.random.default_rng(0).normal(0, 2.5, (1, 151_936)).astype(np.float32)
    draw = [Draw(SamplingParams(temperature=0.8, top_p=0.95, top_k=50), 1, 1)]
    sample(row, draw)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        sample(row, draw)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.02


def test_impossible_tokens_are_not_chosen_at_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least and the largest random number, with tokens of probability 0 at both ends of the vocabulary."""
    row = np.array([[-np.inf, 1.0, -np.inf, 0.3, -np.inf]], np.float32)
    for number, token in ((0.0, 1), (1 - 2.0**-53, 3)):
        monkeypatch.setattr(sampler, "uniform", lambda seed, position, number=number: number)
        assert sample(row, draws(SamplingParams(), 1)).tolist() == [token]


def test_draws_must_match_rows() -> None:
    with pytest.raises(ValueError, match="one draw per row"):
        sample(np.zeros((2, 3), np.float32), draws(SamplingParams(), 1))


# SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", "x"),
        ("max_tokens", 0),
        ("max_tokens", 2.0),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [3]),
        ("stop", 3),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["a"]),
        ("stop_token_ids", "12"),
        ("stop_token_ids", 7),
        ("ignore_eos", 1),
    ],
)
def test_a_bad_value_is_named(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=rf"SamplingParams\.{field} is .*allowed is"):
        SamplingParams(**{field: value})


def test_an_unknown_keyword_lists_the_nearest() -> None:
    with pytest.raises(UnknownOptionError, match="'temprature': did you mean temperature") as error:
        SamplingParams(temprature=0.5)  # type: ignore[call-arg]
    assert isinstance(error.value, TypeError)
    assert "stop_token_ids" in error.value.fix
    with pytest.raises(TypeError, match="no similar name"):
        SamplingParams(zzz=0.5)  # type: ignore[call-arg]


def test_values_are_normalised_and_frozen() -> None:
    params = SamplingParams(stop="a", stop_token_ids=[np.int64(3)], seed=np.int32(4), temperature=1, max_tokens=None)
    assert (params.stop, params.stop_token_ids, params.seed) == (("a",), (3,), 4)
    assert (type(params.temperature), type(params.seed), params.max_tokens) == (float, int, None)
    assert SamplingParams(stop=None, stop_token_ids=None) == SamplingParams()
    assert hash(params) == hash(pickle.loads(pickle.dumps(params)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 5  # type: ignore[misc]
