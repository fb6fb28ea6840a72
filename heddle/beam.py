"""Beam search: the texts that are the most likely as a whole, instead of token by token.

The search is a generator that asks for the next tokens' log probabilities and is sent them; it knows no engine. Beams that
share a beginning share its pages in the prefix cache.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from .runtime.engine import Engine
from .runtime.errors import HeddleError
from .runtime.outputs import CompletionOutput, RequestOutput
from .runtime.parameters import Checker, check_keywords
from .runtime.request import Receiver, Request
from .runtime.sampling import SamplingParams
from .runtime.tokenizer import Tokenizer

Tokens = tuple[int, ...]
Likely = tuple[np.ndarray, np.ndarray]
"""The most likely next tokens, int32[k], the best first, and their log probabilities, float[k]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamSearchParams:
    """What to search for. The names are vLLM's; the search is that of transformers with early_stopping="never".

    beam_width: texts that are kept at every step, and returned. max_tokens: tokens of a text at most.
    length_penalty: texts are ranked by log probability / length ** length_penalty: over 0 favours long texts, below 0
    short ones. The length is in generated tokens, the ending one included.
    ignore_eos: go on after the model's end tokens. stop_token_ids: further tokens that end a text.
    """

    beam_width: int
    max_tokens: int = 16
    length_penalty: float = 1.0
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()

    def __new__(cls, *args: Any, **options: Any) -> BeamSearchParams:
        """Only checks the keywords."""
        check_keywords(cls.__name__, options, [field.name for field in dataclasses.fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        put, check = functools.partial(object.__setattr__, self), Checker("BeamSearchParams")
        put("beam_width", check.integer("beam_width", self.beam_width, "1 or more", at_least=1))
        put("max_tokens", check.integer("max_tokens", self.max_tokens, "1 or more", at_least=1))
        put("length_penalty", check.real("length_penalty", self.length_penalty, "-10 to 10", at_least=-10, at_most=10))
        check.flag("ignore_eos", self.ignore_eos)
        put("stop_token_ids", check.token_ids("stop_token_ids", self.stop_token_ids))

    @property
    def candidates(self) -> int:
        """Next tokens to look at: even if all beams end, as many go on."""
        return 2 * self.beam_width


@dataclasses.dataclass(frozen=True)
class Beam:
    """Generated tokens, and the sum of their log probabilities."""

    tokens: Tokens = ()
    logprob: float = 0.0

    def score(self, penalty: float) -> float:
        """By what beams are ranked: larger is better."""
        return self.logprob / len(self.tokens) ** penalty


def beam_search(
    params: BeamSearchParams, max_tokens: int, end_ids: frozenset[int]
) -> Generator[list[Tokens], list[Likely], list[Beam]]:
    """Yields what to look up, and wants for each the `params.candidates` most likely next tokens (or all there are).

    Returns the `beam_width` best texts (fewer where there are no more), the best first; of equals the one found first.
    `max_tokens` is the length of a text at most. Of all continuations the 2 * width best are candidates. Those that end
    count as finished if they are among the first `width`, the first `width` others go on. The search is over when no beam
    that goes on can be better than the worst of `width` finished ones: its log probability only falls.
    """
    width, penalty = params.beam_width, params.length_penalty
    beams, finished = [Beam()], list[Beam]()
    for length in range(1, max_tokens + 1):
        likely = yield [beam.tokens for beam in beams]
        found = [
            Beam((*beam.tokens, token), beam.logprob + logprob)
            for beam, (tokens, logprobs) in zip(beams, likely, strict=True)
            for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True)
            if logprob > -math.inf
        ]
        best = sorted(found, key=lambda beam: -beam.logprob)[: params.candidates]
        ended = [length == max_tokens or beam.tokens[-1] in end_ids for beam in best]
        finished += [beam for beam, end in zip(best[:width], ended, strict=False) if end]
        finished = sorted(finished, key=lambda beam: -beam.score(penalty))[:width]
        beams = [beam for beam, end in zip(best, ended, strict=True) if not end][:width]
        if not beams:
            break
        longest = max_tokens if penalty > 0 else length + 1
        hope = beams[0].logprob / longest**penalty
        if len(finished) == width and hope <= finished[-1].score(penalty):
            break
    return finished


class Search:
    """One prompt's search on an engine, which is given `requests()` for the logits after each beam, round by round."""

    def __init__(self, engine: Engine, prompt_ids: Sequence[int] | np.ndarray, params: BeamSearchParams) -> None:
        """RequestError where the prompt can never be served."""
        self._engine, self._params = engine, params
        # One greedy text has the same bounds and ends.
        self._whole = engine.prepare(
            prompt_ids,
            SamplingParams(
                temperature=0,
                max_tokens=params.max_tokens,
                ignore_eos=params.ignore_eos,
                stop_token_ids=params.stop_token_ids,
            ),
        )
        length = self._whole.max_length - self._whole.num_prompt
        self._search = beam_search(params, length, self._whole.end_ids)
        self._wanted = next(self._search)
        self._likely: dict[int, Likely] = {}
        self._found: list[Beam] = []

    def requests(self) -> list[Request]:
        """What must be served before `move_on`."""
        prompt = self._whole.prompt_ids
        sequences = [np.concatenate((prompt, np.array(tokens, np.int32))) for tokens in self._wanted]
        return [
            self._engine.prepare_scoring(ids, self._receiver(i), first=len(ids) - 1) for i, ids in enumerate(sequences)
        ]

    def move_on(self) -> bool:
        """Take the next step; returns whether the search is over."""
        likely = [self._likely.pop(i) for i in range(len(self._wanted))]
        try:
            self._wanted = self._search.send(likely)
        except StopIteration as end:
            self._found = end.value
            return True
        return False

    def output(self, tokenizer: Tokenizer | None, prompt: str | None = None) -> RequestOutput:
        """The texts that were found."""
        whole, completions = self._whole, []
        for i, beam in enumerate(self._found):
            ended = beam.tokens[-1] in whole.end_ids
            text = tokenizer.decode(beam.tokens[: -1 if ended else None]) if tokenizer else ""
            cause = beam.tokens[-1] if beam.tokens[-1] in self._params.stop_token_ids else None
            reason = "stop" if ended else "length"
            completions.append(CompletionOutput(i, text, beam.tokens, reason, cause, beam.logprob))
        return RequestOutput(whole.request_id, prompt, tuple(whole.prompt_ids.tolist()), completions, True)

    def _receiver(self, i: int) -> Receiver:
        def receive(position: int, logits: np.ndarray) -> None:
            (found,) = self._engine.runner.sampler.logprobs(logits, [0], self._params.candidates)
            if found is None:
                raise HeddleError(
                    f"the logits of request {self._whole.request_id!r} at position {position} are not finite",
                    "no token can be chosen from them",
                    "check the weights of the model; weights or activations may overflow their type",
                )
            self._likely[i] = found.top_ids, found.top_logprobs

        return receive
