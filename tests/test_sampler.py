"""Choosing tokens with the NumPy sampler: candidates, masks, penalties, log probabilities, and independence of the batch."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from heddle.runtime.sampler import NO_TOKEN, Draw, Sampler, random_bits, sample, sample_seed, sampler, uniform
from heddle.runtime.sampler.reference import UNIT, fma, part, weights
from heddle.runtime.sampling import SamplingParams
from tests.sampler_tools import draws, probabilities


def greedy(row: list[float] | np.ndarray, params: dict[str, Any], **more: Any) -> int:
    """The most likely token after all changes."""
    draw = Draw(SamplingParams(temperature=0, **params), 0, 0, **more)
    return int(sample(np.array([row], np.float32), [draw]).tokens[0])


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = np.array([[0, 3, 3, 1], [5, 5, 5, 5], [-1, -2, -np.inf, -1], [-0.0, 0.0, -1, -1]], np.float32)
    assert sample(logits, draws(SamplingParams(temperature=0), 4)).tolist() == [1, 0, 0, 0]
    assert sample(logits, draws(SamplingParams(top_k=1), 4)).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-6])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    logits = np.array([[-1e30, 2.0, 1.999, 3e30]], np.float32)
    assert sample(logits, [Draw(SamplingParams(temperature=temperature), 5, 9)]).tolist() == [3]


def test_no_temperature_makes_the_impossible_possible() -> None:
    logits = np.tile(np.array([-np.inf, 1, -np.inf, -1e30], np.float32), (200, 1))
    chosen = sample(logits, draws(SamplingParams(temperature=1e300), 200)).tokens
    assert set(chosen.tolist()) == {1, 3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_choice_does_not_harm_others(temperature: float) -> None:
    logits = np.array([[0, np.nan], [0, np.inf], [-np.inf, -np.inf], [-np.inf, 1]], np.float32)
    result = sample(logits, draws(SamplingParams(temperature=temperature, logprobs=1), 4))
    assert result.tolist() == [NO_TOKEN, NO_TOKEN, NO_TOKEN, 1]
    assert [made is None for made in result.logprobs] == [True, True, True, False]
    assert Sampler().logprobs(logits, [0, 0, 0, 0], 1)[:3] == [None, None, None]


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-3.0, -1.5, 0.0, 0.5, 1.0, 2.0, 4.0])),
    st.integers(0, 45),
    st.floats(0.01, 1.0),
    st.floats(0.0, 0.5),
    st.sampled_from([0.3, 1.0, 2.5]),
)
def test_only_candidates_are_chosen(row: np.ndarray, k: int, p: float, least: float, temperature: float) -> None:
    """Rows full of ties: every choice is among the textbook's candidates, give or take one at the rounded edge."""
    params = SamplingParams(temperature=temperature, top_k=k, top_p=p, min_p=least)
    wider = dataclasses.replace(params, top_p=min(1.0, p * (1 + 1e-5)), min_p=least * (1 - 1e-5))
    allowed = np.flatnonzero(probabilities(row, wider))
    chosen = sample(np.tile(row, (50, 1)), draws(params, 50, seed=k))
    assert set(chosen.tolist()) <= set(allowed.tolist())


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([0, 1, 7]),
    top_p=st.sampled_from([0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.1]),
    typical_p=st.sampled_from([0.7, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    bad_token_ids=st.sampled_from([(), (3, 9)]),
    logprobs=st.sampled_from([None, 0, 4]),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.data())
def test_the_choice_does_not_depend_on_the_batch(seed: int, count: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 333)).astype(np.float32)
    rows = [
        Draw(
            data.draw(PARAMS),
            data.draw(st.integers(0, 2**64 - 1)),
            data.draw(st.integers(0, 5000)),
            rng.integers(0, 333, 20).astype(np.int32),
            int(rng.integers(0, 20)),
        )
        for _ in range(count)
    ]
    alone = [sample(logits[i : i + 1].copy(), [rows[i]]) for i in range(count)]
    tokens = [one.tolist()[0] for one in alone]
    order = data.draw(st.permutations(range(count)))
    mixed = sample(logits, [rows[i] for i in order], order)
    assert mixed.tolist() == [tokens[i] for i in order]
    for i, made in zip(order, mixed.logprobs, strict=True):
        mine = alone[i].logprobs[0]
        assert (made is None) == (mine is None)
        assert made is None or mine is None or (made.logprob, made.rank) == (mine.logprob, mine.rank)
    assert sample(np.asfortranarray(logits), rows).tolist() == tokens


def test_uniform_numbers_are_uniform_and_independent() -> None:
    numbers = np.array([[uniform(seed, position) for position in range(300)] for seed in (0, 1, 2, 2**64 - 1)])
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert np.unique(numbers).size == numbers.size
    assert np.abs(numbers.mean(axis=1) - 0.5).max() < 0.06
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.2
    assert 0 <= random_bits(2**64 - 1, 2**64 - 1) < 2**64


def test_answers_of_one_request_have_seeds_of_their_own() -> None:
    seeds = [sample_seed(seed, i) for seed in (0, 1, 2**64 - 1) for i in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert sample_seed(77, 0) == 77
    assert max(seeds) < 2**64


def test_impossible_tokens_are_not_chosen_at_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least and the largest random number, with tokens of probability 0 at both ends of the vocabulary."""
    row = np.array([[-np.inf, 1.0, -np.inf, 0.3, -np.inf]], np.float32)
    for number, token in ((0, 1), (2**64 - 1, 3)):
        monkeypatch.setattr(sampler, "random_bits", lambda seed, position, number=number: number)
        assert sample(row, draws(SamplingParams(), 1)).tolist() == [token]


# What changes the logits.


def test_masks() -> None:
    row = [1.0, 2, 3, 4, 5]
    assert greedy(row, {"bad_token_ids": [4, 3]}) == 2
    assert greedy(row, {"allowed_token_ids": [0, 1]}) == 1
    assert greedy(row, {"allowed_token_ids": [0, 1], "logit_bias": {2: 100, 0: 1.5}}) == 0
    assert greedy([-np.inf, 1], {"allowed_token_ids": [0]}) == NO_TOKEN


def test_bad_words_end_only_after_their_beginning() -> None:
    row, words = [0.0, 0, 0, 9, 5], [(1, 2, 3)]
    for tokens, token in (([1, 2], 4), ([0, 1, 2], 4), ([2, 2], 3), ([2], 3), ([], 3)):
        assert greedy(row, {}, tokens=np.array(tokens, np.int32), bad_words=words) == token
    assert greedy(row, {}, bad_words=[(3,)]) == 4


def test_end_tokens_wait_for_min_tokens() -> None:
    row, tokens = [0.0, 1, 9], np.zeros(5, np.int32)
    for prompt, token in ((5, 1), (4, 1), (3, 2), (0, 2)):
        assert greedy(row, {"min_tokens": 2}, tokens=tokens, num_prompt=prompt, end_ids=frozenset({2})) == token
    assert greedy(row, {}, tokens=tokens, num_prompt=5, end_ids={2}) == 2


def test_penalties_are_those_of_vllm() -> None:
    """Repetition over prompt and output, frequency and presence over the output, each token once."""
    params = SamplingParams(repetition_penalty=1.5, frequency_penalty=0.25, presence_penalty=0.5, logprobs=None)
    rng = np.random.default_rng(0)
    row, tokens = rng.normal(0, 3, (1, 50)).astype(np.float32), rng.integers(0, 30, 60).astype(np.int32)
    sampler_ = Sampler()
    sampler_.sample(row, [Draw(params, 0, 0, tokens, 20)])
    want = row[0].astype(np.float64)
    for token in set(tokens.tolist()):
        want[token] = want[token] / 1.5 if want[token] > 0 else want[token] * 1.5
    for token in tokens[20:].tolist():
        want[token] -= 0.25
    for token in set(tokens[20:].tolist()):
        want[token] -= 0.5
    edited = sampler_._arrays["edited"]
    np.testing.assert_allclose(edited[0], want, rtol=1e-5, atol=1e-5)
    assert not np.shares_memory(edited, row)


def test_the_logits_stay_as_they_are() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (2, 50)).astype(np.float32)
    before = logits.tobytes()
    logits.flags.writeable = False
    params = SamplingParams(bad_token_ids=[1], repetition_penalty=2, logit_bias={3: 4}, logprobs=2)
    sample(logits, [Draw(params, 0, 0, np.arange(9, dtype=np.int32), 3)] * 2)
    assert logits.tobytes() == before


# Log probabilities.


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(0, 70), st.sampled_from([0.1, 3.0, 30.0]))
def test_logprobs_are_log_softmax(seed: int, vocab: int, top: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    row = rng.normal(0, scale, (1, vocab)).astype(np.float32)
    wide = row[0].astype(np.float64)
    want = wide - wide.max() - math.log(np.exp(wide - wide.max()).sum())
    token = int(rng.integers(0, vocab))
    (made,) = Sampler().logprobs(row, [token], top)
    assert made is not None
    order = np.lexsort((np.arange(vocab), -row[0]))[:top]
    assert abs(made.logprob - want[token]) < 2e-6 * max(1, scale)
    assert made.rank == 1 + (row[0] > row[0, token]).sum()
    assert made.top_ids.tolist() == order.tolist()
    np.testing.assert_allclose(made.top_logprobs, want[order], rtol=1e-6, atol=2e-6 * max(1, scale))


def test_each_row_gets_the_logprobs_that_it_asked_for() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 50)).astype(np.float32)
    asked = [SamplingParams(logprobs=n) for n in (None, 0, 5)] + [SamplingParams(best_of=3)]
    made = sample(logits, [Draw(params, 0, i) for i, params in enumerate(asked)]).logprobs
    assert made[0] is None
    assert [len(one.top_ids) for one in made[1:] if one] == [0, 5, 0]


# Arithmetic.


@settings(max_examples=300, deadline=None)
@given(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 3)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    """Against exact rational arithmetic."""
    from fractions import Fraction

    exact = Fraction(a) * Fraction(b) + Fraction(c)
    got = float(fma(np.float32(a), np.float32(b), np.float32(c)))
    if abs(exact) < 2**127:
        neighbours = [float(np.nextafter(np.float32(got), np.float32(side))) for side in (-np.inf, np.inf)]
        assert all(abs(Fraction(got) - exact) <= abs(Fraction(n) - exact) for n in neighbours)


def test_weights_are_exponentials_and_never_more_than_one() -> None:
    z = -np.geomspace(1e-30, 200, 20_000, dtype=np.float32)
    got = weights(z).astype(np.float64)
    assert weights(np.zeros(1, np.float32)).tolist() == [1 << 40]
    assert np.abs(got - np.exp(z.astype(np.float64)) * 2**40).max() < 2**40 * 3e-7
    assert got.min() == 0
    assert got.max() <= 1 << 40
    assert part(10**17, UNIT) == 10**17


@pytest.mark.parametrize(
    "call",
    [
        lambda logits: sample(logits, draws(SamplingParams(), 1)),
        lambda logits: sample(logits, draws(SamplingParams(), 1), [2]),
        lambda logits: sample(logits, draws(SamplingParams(), 1), [-1]),
        lambda logits: sample(logits.astype(np.float64), draws(SamplingParams(), 2)),
        lambda logits: sample(logits, draws(SamplingParams(bad_token_ids=[3]), 2)),
        lambda logits: Sampler().logprobs(logits, [0], 1),
        lambda logits: Sampler().logprobs(logits, [0, 3], 1),
    ],
)
def test_what_does_not_fit_is_refused(call: Any) -> None:
    with pytest.raises(
        ValueError, match=r"one (draw|token) per row|do not exist|float32|has? tokens|names tokens|not in 0"
    ):
        call(np.zeros((2, 3), np.float32))
