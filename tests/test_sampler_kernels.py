"""The compiled sampler: the NumPy sampler's tokens and log probabilities, and the distributions that the filters mean."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.runtime.plans import PlanSequence
from heddle.runtime.sampler import Draw, Sampler
from heddle.runtime.sampling import SamplingParams
from heddle.schedules.catalog import sample_tokens
from heddle.schedules.target import resolve_target
from tests.model_tools import runner_of
from tests.sampler_tools import compiled_sampler, draws, probabilities

VOCABULARIES = (1, 7, 512, 1303)

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1e-40, 0.3, 1.0, 1.0, 3.0, 1e6, 1e300]),
    top_k=st.sampled_from([0, 0, 1, 2, 5, 100, 1300, 5000]),
    top_p=st.sampled_from([1.0, 1.0, 0.999999, 0.9, 0.5, 1e-9]),
    min_p=st.sampled_from([0.0, 0.0, 1e-9, 1e-4, 0.2, 1.0]),
    typical_p=st.sampled_from([1.0, 1.0, 0.99, 0.5, 0.01]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.2, 0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.31, -1.0]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.9]),
    logit_bias=st.sampled_from([{}, {}, {0: -100, 1: 0.5}]),
    bad_token_ids=st.sampled_from([(), (), (0, 1)]),
    allowed_token_ids=st.sampled_from([None, None, (0, 2, 5)]),
    min_tokens=st.sampled_from([0, 5]),
    logprobs=st.sampled_from([None, 0, 3, 20]),
)


def logits_of(kind: str, rng: np.random.Generator, rows: int, vocab: int) -> np.ndarray:
    """Logits of one kind, normal ones changed."""
    logits = rng.normal(0, 3, (rows, vocab)).astype(np.float32)
    match kind:
        case "ties":
            logits = np.round(logits)
        case "equal":
            logits[:] = logits[:, :1]
        case "impossible":
            logits[rng.random((rows, vocab)) < 0.7] = -np.inf
        case "huge":
            logits *= np.float32(1e37)
        case "denormal":
            logits *= np.float32(1e-42)
        case "wide":
            logits *= np.float32(30)
        case "broken":
            logits[:, rng.integers(0, vocab)] = rng.choice([np.nan, -np.nan, np.inf])
        case "zeros":
            logits = np.where(logits > 0, np.float32(0), np.float32(-0.0))
    return logits


KINDS = st.sampled_from(["normal", "ties", "equal", "impossible", "huge", "denormal", "wide", "broken", "zeros"])


@pytest.mark.parametrize("vocab", VOCABULARIES)
@settings(max_examples=120, deadline=None)
@given(kind=KINDS, seed=st.integers(0, 2**32 - 1), params=st.lists(PARAMS, min_size=1, max_size=9))
def test_it_chooses_what_numpy_chooses(vocab: int, kind: str, seed: int, params: list[SamplingParams]) -> None:
    rng = np.random.default_rng(seed)
    logits = logits_of(kind, rng, len(params), vocab)
    rows = [
        Draw(p, int(rng.integers(0, 2**63)), i, rng.integers(0, vocab, 12).astype(np.int32), 4, end_ids={vocab - 1})
        for i, p in enumerate(params)
        if max(p.token_ids, default=0) < vocab
    ]
    order = rng.integers(0, len(params), len(rows)).tolist()
    got, want = (s.sample(logits, rows, order) for s in (compiled_sampler(vocab), Sampler()))
    assert got.tolist() == want.tolist()
    for one, other in zip(got.logprobs, want.logprobs, strict=True):
        assert (one is None) == (other is None)
        if one and other:
            assert (one.token, one.logprob, one.rank) == (other.token, other.logprob, other.rank)
            assert one.top_ids.tolist() == other.top_ids.tolist()
            assert one.top_logprobs.tobytes() == other.top_logprobs.tobytes()


@pytest.mark.parametrize("ways", [{"top_k": 50, "top_p": 0.9}, {"top_p": 0.9}, {"typical_p": 0.9}, {}], ids=str)
def test_a_large_vocabulary_gives_what_numpy_gives(ways: dict[str, Any]) -> None:
    """One row and many: parts of a vocabulary are served in parallel where rows are few."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2.5, (24, 32_003)).astype(np.float32)
    rows = draws(SamplingParams(temperature=0.8, logprobs=3, **ways), 24)
    compiled, numpy = compiled_sampler(32_003), Sampler().sample(logits, rows)
    assert compiled.sample(logits, rows).tolist() == numpy.tolist()
    assert compiled.sample(logits, rows[7:8], [7]).tolist() == numpy.tolist()[7:8]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.7, top_k=5),
        SamplingParams(temperature=1.5, top_p=0.8),
        SamplingParams(temperature=2.0, min_p=0.2),
        SamplingParams(temperature=1.2, typical_p=0.6),
        SamplingParams(top_k=8, top_p=0.9, min_p=0.05, typical_p=0.9),
        SamplingParams(temperature=3.0, logit_bias={4: 2.0}, bad_token_ids=[1]),
    ],
    ids=lambda p: "-".join(f"{k}{v}" for k, v in vars(p).items() if v != getattr(SamplingParams(), k)) or "plain",
)
def test_frequencies_are_the_probabilities(params: SamplingParams) -> None:
    """40,000 draws against the exact distribution: chi-squared under its 99.99th percentile for what can be drawn."""
    row = np.random.default_rng(0).normal(0, 1.5, 12).astype(np.float32)
    changed = row.copy()
    for token, bias in params.logit_bias or ():
        changed[token] += bias
    changed[list(params.bad_token_ids or ())] = -np.inf
    expected = probabilities(changed, params) * 40_000
    chosen = compiled_sampler(12).sample(np.tile(row, (40_000, 1)), draws(params, 40_000, seed=11)).tokens
    counts = np.bincount(chosen, minlength=12)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_squared = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom) + 12  # above the 99.99th percentile for 1 to 11 degrees


def test_an_artifact_has_its_sampler(tinydoc: Path) -> None:
    """Over the logits of a step as the runner gives them."""
    runner = runner_of(tinydoc, tokens=256)
    tokens = np.arange(3, 23, dtype=np.int32)
    logits = runner.forward([PlanSequence(np.arange(2, dtype=np.int32), 0, 20)], tokens, np.arange(20, dtype=np.int32))
    params = [SamplingParams(top_k=9), SamplingParams(top_p=0.7, repetition_penalty=1.3), SamplingParams(logprobs=4)]
    rows = [Draw(params[i % 3], 5, i, tokens[: i + 1], 3) for i in range(20)]
    got, want = runner.sampler.sample(logits, rows), Sampler().sample(logits, rows)
    assert got.tolist() == want.tolist()
    assert [one and one.logprob for one in got.logprobs] == [one and one.logprob for one in want.logprobs]


def test_logits_that_are_not_aligned_are_copied() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 7)).astype(np.float32)
    rows = draws(SamplingParams(), 3)
    views = logits[1:4], logits[:, ::1][1:4], np.asfortranarray(logits)[1:4]
    want = Sampler().sample(np.ascontiguousarray(logits[1:4]), rows).tolist()
    assert all(compiled_sampler(7).sample(view, rows).tolist() == want for view in views)


def test_a_vocabulary_whose_sums_could_overflow_is_refused() -> None:
    with pytest.raises(ValueError, match="exact up to 1048576"):
        sample_tokens(vocab=(1 << 20) + 1, target=resolve_target())
