"""One step's batch: what the runner and the sampler are given, and what they gave back, by request."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping

import numpy as np

from .plans import PlanSequence
from .request import Request
from .runner import Runner
from .sampler import Draw, Sampler, TokenLogprobs, sample_seed
from .structured.masks import Masks


class StepFault(Exception):
    """`error` came up in a step; the `requests` have to fail for it, all others may go on."""

    def __init__(self, requests: list[Request], error: Exception) -> None:
        super().__init__(str(error))
        self.requests, self.error = requests, error


@dataclasses.dataclass(slots=True, eq=False)
class Part:
    """One request's share: the `rows` tokens from position `start` on.

    first, wanted: which results are its own, of the logits or (where it pools) of the hidden states: those of its last
    `wanted` rows. picks: the tokens chosen, one, or one for each sample of its group at the end of the prompt; with their
    log probabilities where they were asked for. scores: log probabilities of prompt tokens.
    """

    request: Request
    start: int
    rows: int
    first: int = 0
    wanted: int = 0
    picks: list[tuple[int, TokenLogprobs | None]] = dataclasses.field(default_factory=list)
    scores: list[TokenLogprobs | None] = dataclasses.field(default_factory=list)

    @property
    def ends(self) -> bool:
        """Whether no token is pending after it."""
        return self.start + self.rows == self.request.num_tokens


class Batch:
    """The parts of a step in order, and their results after `run` and `choose`. Changes no request."""

    def __init__(self, rows: Mapping[Request, int]) -> None:
        self.parts: list[Part] = []
        self.tokens = np.empty(sum(rows.values()), np.int32)
        self.logits = self.hidden = np.empty((0, 0), np.float32)
        self.run_seconds = self.sample_seconds = 0.0
        self._sequences: list[PlanSequence] = []
        self._logit_rows: list[int] = []
        self._hidden_rows: list[int] = []
        self._masks: Masks | None = None
        self._matched: list[Part] = []
        at = 0
        for request, count in rows.items():
            start = request.computed
            end = start + count
            self.tokens[at : at + count] = request.tokens[start:end]
            self._sequences.append(PlanSequence(request.pages, start, count, causal=not request.whole))
            at += count
            wanted = min(count, end - request.first_wanted)
            results = self._hidden_rows if request.pooling else self._logit_rows
            self.parts.append(Part(request, start, count, len(results), max(0, wanted)))
            if wanted > 0:
                results.extend(range(at - wanted, at))

    def mask(self, masks: Masks) -> None:
        """Begin to compute which tokens may come next, where grammars say so; best before `run`, which leaves them time."""
        matched = [part for part in self._drawing if part.request.matcher]
        if matched:
            self._masks, self._matched = masks, matched
            masks.start([part.request.matcher for part in matched if part.request.matcher])

    def run(self, runner: Runner) -> None:
        """Compute the logits and hidden states that anybody wants. StepFault blames all."""
        begin = time.perf_counter()
        try:
            self.logits = runner.forward(self._sequences, self.tokens, np.array(self._logit_rows, np.int32))
            if len(self.logits) != len(self._logit_rows):
                raise RuntimeError(f"the runner gave {len(self.logits)} rows of logits, not {len(self._logit_rows)}")
            if self._hidden_rows:
                self.hidden = runner.hidden(np.array(self._hidden_rows, np.int32))
        except StepFault:
            raise  # the runner knows better
        except Exception as error:
            raise StepFault([part.request for part in self.parts], error) from error
        finally:
            self.run_seconds = time.perf_counter() - begin

    def choose(self, sampler: Sampler) -> None:
        """The next token of each text whose last token was served. StepFault blames those that wanted one."""
        begin = time.perf_counter()
        drawing, allowed = self._drawing, self._allowed()
        draws, rows = [], []
        for part in drawing:
            group = part.request.group
            count = 1 if group.forked else group.width
            draws += [_draw(part.request, i, allowed.get(part.request)) for i in range(count)]
            rows += [part.first + part.wanted - 1] * count
        try:
            if draws:
                found = sampler.sample(self.logits, draws, rows)
                picks = list(zip(found.tokens.tolist(), found.logprobs, strict=True))
                for part in reversed(drawing):
                    count = 1 if part.request.group.forked else part.request.group.width
                    part.picks = picks[-count:]
                    del picks[-count:]
        except Exception as error:
            raise StepFault([part.request for part in drawing], error) from error
        for part in self.parts:
            params = part.request.params
            if params is not None and params.prompt_logprobs is not None and part.wanted:
                self._score(part, sampler, params.prompt_logprobs)
        self.sample_seconds = time.perf_counter() - begin

    @functools.cached_property
    def _drawing(self) -> list[Part]:
        """The parts after which a token is drawn."""
        return [part for part in self.parts if part.wanted and part.request.params is not None and part.ends]

    def _allowed(self) -> dict[Request, np.ndarray]:
        """The masks that `mask` began to compute; StepFault blames the requests whose grammars failed."""
        if self._masks is None:
            return {}
        found = dict(zip((part.request for part in self._matched), self._masks.wait(), strict=True))
        failed = {request: error for request, error in found.items() if isinstance(error, Exception)}
        for error in failed.values():
            raise StepFault(list(failed), error) from error
        return {request: mask for request, mask in found.items() if isinstance(mask, np.ndarray)}

    def _score(self, part: Part, sampler: Sampler, top: int) -> None:
        """Log probabilities of the prompt's tokens: the row of each position tells of the next one."""
        request, end = part.request, part.start + part.rows
        tokens = request.prompt_ids[end - part.wanted + 1 : end + 1]
        try:
            if len(tokens):
                rows = range(part.first, part.first + len(tokens))
                part.scores = sampler.logprobs(self.logits, tokens, top, rows)
        except Exception as error:
            raise StepFault([request], error) from error


def _draw(request: Request, sample: int, mask: np.ndarray | None) -> Draw:
    """What the next token of `request`, or of the sample that it becomes, is drawn by."""
    params = request.params
    assert params is not None, "only texts draw tokens"
    seed = sample_seed(request.seed, sample) if sample else request.seed
    tokens, num_prompt = request.tokens, request.num_prompt
    return Draw(params, seed, request.num_tokens, tokens, num_prompt, request.end_ids, request.bad_words, mask)
