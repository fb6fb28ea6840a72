"""Beam search against all texts there are, against transformers, and on the engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import heddle
from heddle.beam import Beam, BeamSearchParams, Tokens, beam_search
from heddle.llm import LLM
from heddle.runtime.errors import HeddleError, RequestError
from heddle.runtime.sampling import UnknownOptionError

from .conftest import ROOT
from .llm_tools import null_artifact

MODEL = ROOT / "examples" / "tinydoc"
VOCAB, END = 4, frozenset({0})


def random_model(seed: int) -> Callable[[Tokens], np.ndarray]:
    """Log probabilities float64[VOCAB] after any text, all different."""

    def after(tokens: Tokens) -> np.ndarray:
        logits = np.random.default_rng([seed, *tokens]).normal(0, 1.5, VOCAB)
        return logits - np.log(np.exp(logits).sum())

    return after


def search(model: Callable[[Tokens], np.ndarray], params: BeamSearchParams) -> tuple[list[Beam], int]:
    """What is found, and how many steps it took."""
    going, steps = beam_search(params, params.max_tokens, END), 0
    wanted = next(going)
    while True:
        steps += 1
        likely = []
        for tokens in wanted:
            logprobs = model(tokens)
            best = np.argsort(-logprobs)[: params.candidates]
            likely.append((best.astype(np.int32), logprobs[best]))
        try:
            wanted = going.send(likely)
        except StopIteration as end:
            return end.value, steps


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(5))
def test_a_beam_as_wide_as_the_tree_finds_the_best_texts(seed: int, penalty: float) -> None:
    model, length = random_model(seed), 4
    texts = []
    for n in range(1, length + 1):
        for tokens in itertools.product(range(VOCAB), repeat=n):
            if 0 not in tokens[:-1] and (tokens[-1] == 0 or n == length):
                logprob = sum(model(tokens[:i])[tokens[i]] for i in range(n))
                texts.append((logprob / n**penalty, tokens))
    best = sorted(texts, reverse=True)
    width = VOCAB**length
    found, _ = search(model, BeamSearchParams(beam_width=width, max_tokens=length, length_penalty=penalty))
    assert [beam.tokens for beam in found] == [tokens for _, tokens in best]
    np.testing.assert_allclose([beam.score(penalty) for beam in found], [score for score, _ in best])


def test_width_one_is_greedy() -> None:
    model = random_model(3)
    tokens: Tokens = ()
    while len(tokens) < 6 and (not tokens or tokens[-1] != 0):
        tokens = (*tokens, int(model(tokens).argmax()))
    found, _ = search(model, BeamSearchParams(beam_width=1, max_tokens=6))
    assert [beam.tokens for beam in found] == [tokens]


def test_it_ends_when_nothing_better_can_come() -> None:
    def model(tokens: Tokens) -> np.ndarray:
        return np.log([0.97, 0.01, 0.01, 0.01])

    found, steps = search(model, BeamSearchParams(beam_width=2, max_tokens=100, length_penalty=0.0))
    assert found[0].tokens == (0,)
    assert steps < 5
    impossible, _ = search(
        lambda tokens: np.array([-np.inf, 0.0, -np.inf, -np.inf]), BeamSearchParams(beam_width=3, max_tokens=3)
    )
    assert [beam.tokens for beam in impossible] == [(1, 1, 1)]  # there is no other text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_width": 0}, "beam_width is 0"),
        ({"beam_width": 2.5}, "beam_width is 2.5"),
        ({"beam_width": 2, "max_tokens": 0}, "max_tokens is 0"),
        ({"beam_width": 2, "length_penalty": float("nan")}, "length_penalty is nan"),
        ({"beam_width": 2, "ignore_eos": 1}, "ignore_eos is 1"),
        ({"beam_width": 2, "stop_token_ids": "x"}, "stop_token_ids is 'x'"),
    ],
)
def test_bad_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        BeamSearchParams(**options)


def test_unknown_parameters() -> None:
    with pytest.raises(UnknownOptionError, match="did you mean beam_width"):
        BeamSearchParams(beam_widht=2)  # type: ignore[call-arg]


# On the engine


@pytest.fixture
def null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    model = LLM(null_artifact(tmp_path, monkeypatch), max_waiting=4)
    yield model
    model.engine.check_integrity()
    assert not model.engine.has_work


def test_several_prompts_and_bad_ones(null: LLM) -> None:
    params = BeamSearchParams(beam_width=5, max_tokens=7)
    prompts = ["The cache", [7, 8, 9], "x"]
    together = null.beam_search(prompts, params)
    assert [output.prompt for output in together] == ["The cache", None, "x"]
    for prompt, output in zip(prompts, together, strict=True):
        (alone,) = null.beam_search(prompt, params)
        assert alone.outputs == output.outputs
        scores = [o.cumulative_logprob / len(o.token_ids) for o in output.outputs]  # type: ignore[operator]
        assert scores == sorted(scores, reverse=True)
        assert len({o.token_ids for o in output.outputs}) == 5
        assert null.tokenizer is not None
        assert [o.text for o in output.outputs] == [null.tokenizer.decode(o.token_ids) for o in output.outputs]
        assert {o.finish_reason for o in output.outputs} == {"length"}
    stop = together[1].outputs[0].token_ids[2]
    short = BeamSearchParams(beam_width=5, max_tokens=7, stop_token_ids=[stop], length_penalty=0)
    (stopped,) = null.beam_search([[7, 8, 9]], short)
    ended = [o for o in stopped.outputs if o.token_ids[-1] == stop]
    assert all((o.finish_reason, o.stop_reason) == ("stop", stop) for o in ended)
    assert ended
    with pytest.raises(RequestError, match=r"prompts\[1\]: token id 5000"):
        null.beam_search([[1], [5000]], params)
    (edge,) = null.beam_search([[1] * 254], params)
    assert {len(o.token_ids) for o in edge.outputs} == {2}  # the context ends there
    null.runner.poison = {0}  # type: ignore[attr-defined]
    with pytest.raises(HeddleError, match="not finite"):
        null.beam_search("x", params)


def test_the_same_as_transformers(tinydoc: Path) -> None:
    """Texts and scores, as far as a cache in float16 tells two beams apart."""
    import torch
    from transformers import AutoModelForCausalLM

    llm = LLM(tinydoc, threads=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slowed down by more
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    assert llm.tokenizer is not None
    same = total = 0
    for text, width, length in (("The command line option", 4, 12), ("def main(", 3, 20), ("A page", 2, 16)):
        ids = llm.tokenizer.encode(text)
        for penalty in (1.0, 0.5):
            params = BeamSearchParams(beam_width=width, max_tokens=length, length_penalty=penalty)
            (found,) = llm.beam_search([ids], params)
            theirs = model.generate(
                torch.tensor([ids]),
                num_beams=width,
                num_return_sequences=width,
                max_new_tokens=length,
                length_penalty=penalty,
                early_stopping="never",
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                pad_token_id=0,
                eos_token_id=[0, 2],
            )
            scores = [o.cumulative_logprob / len(o.token_ids) ** penalty for o in found.outputs]  # type: ignore[operator]
            np.testing.assert_allclose(scores, theirs.sequences_scores.numpy(), rtol=2e-3)
            for mine, other in zip(found.outputs, theirs.sequences.tolist(), strict=True):
                same += list(mine.token_ids) == other[len(ids) :][: len(mine.token_ids)]
                total += 1
    torch.set_num_threads(threads)
    assert same >= 0.9 * total
    assert llm.metrics.cached_tokens > 0


def test_the_public_name() -> None:
    assert heddle.BeamSearchParams is BeamSearchParams
