"""SamplingParams: every field's range, contradictions, and the normal form of values."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from heddle.runtime.errors import RequestError
from heddle.runtime.sampling import SamplingParams, UnknownOptionError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 1.5),
        ("best_of", 0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.01),
        ("frequency_penalty", float("nan")),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-40),  # nothing, as a float32
        ("repetition_penalty", 1e39),
        ("repetition_penalty", float("inf")),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", 0),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", "x"),
        ("max_tokens", 0),
        ("max_tokens", 2.0),
        ("min_tokens", -1),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [3]),
        ("stop", 3),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["a"]),
        ("stop_token_ids", "12"),
        ("stop_token_ids", 7),
        ("bad_token_ids", [1 << 31]),
        ("bad_token_ids", {1: 2}),
        ("allowed_token_ids", "1"),
        ("bad_words", [""]),
        ("ignore_eos", 1),
        ("logprobs", -1),
        ("logprobs", 21),
        ("prompt_logprobs", True),
        ("logit_bias", {1: 101}),
        ("logit_bias", {-1: 1}),
        ("logit_bias", {1: float("nan")}),
        ("logit_bias", {"1": 1}),
        ("logit_bias", [1, 2]),
        ("logit_bias", 3),
    ],
)
def test_a_bad_value_is_named(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=rf"SamplingParams\.{field} is .*allowed is"):
        SamplingParams(**{field: value})


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"n": 3, "best_of": 2}, "n=3 of best_of=2"),
        ({"n": 2, "temperature": 0}, "2 answers with temperature=0"),
        ({"best_of": 2, "top_k": 1}, "2 answers with top_k=1"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens=5 and at most max_tokens=4"),
        ({"allowed_token_ids": []}, "allowed_token_ids is empty"),
        ({"allowed_token_ids": [1, 2], "bad_token_ids": [2, 1, 3]}, "bans all allowed"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        SamplingParams(**fields)


def test_what_looks_like_a_contradiction_and_is_none() -> None:
    assert SamplingParams(n=2, best_of=2).samples == 2
    assert SamplingParams(min_tokens=9, max_tokens=None).min_tokens == 9
    assert SamplingParams(allowed_token_ids=[1, 2], bad_token_ids=[2]).token_ids == (1, 2, 2)
    assert SamplingParams(temperature=0, top_p=0.5, min_p=0.1).greedy


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
    nothing: dict[str, Any] = dict.fromkeys(("stop", "stop_token_ids", "bad_token_ids", "bad_words", "logit_bias"))
    assert SamplingParams(**nothing) == SamplingParams()
    biased = SamplingParams(logit_bias={7: 1, np.int32(2): -3.5})
    assert biased.logit_bias == ((2, -3.5), (7, 1.0))
    assert dataclasses.replace(biased, top_k=3).logit_bias == biased.logit_bias
    assert hash(biased) == hash(pickle.loads(pickle.dumps(biased)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 5  # type: ignore[misc]
