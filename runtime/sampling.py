"""How a request wants its tokens chosen and when it wants them to end. The names and defaults are vLLM's."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

from .errors import RequestError
from .parameters import Checker, UnknownOptionError, check_keywords
from .structured.params import Structured

__all__ = ["MAX_BIAS", "MAX_LOGPROBS", "SamplingParams", "UnknownOptionError", "check_keywords"]

MAX_LOGPROBS = 20
"""Tokens of one position whose log probabilities a request may ask for."""

MAX_BIAS = 100.0
"""The largest bias: with it a token is as good as forced, with its negative as good as banned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop.

    Which and how many:
    n: answers to one prompt. best_of: answers to generate, of which the `n` most likely are returned; None is `n`.
    max_tokens: tokens to generate at most; None goes on until the context (or the KV pool) is full.
    min_tokens: tokens before which no end token (the model's, or of `stop_token_ids`) can be chosen.
    stop: texts that end the generation; the output does not contain them.
    stop_token_ids: tokens that end the generation, besides the model's own end tokens.
    ignore_eos: go on after the model's end tokens.
    skip_special_tokens: leave tokens such as `<|im_start|>` out of the text. The token that ends it is never part of it.

    What changes the logits, in this order:
    structured: what the text has to match, a `Structured` or a mapping of its fields (docs/structured_output.md); None is
    anything. The text ends where nothing can follow, whatever `min_tokens` and `ignore_eos` say.
    allowed_token_ids: nothing else can be chosen; None allows all. bad_token_ids: never chosen.
    bad_words: texts that are never completed: the last token of one is banned where its others stand before it.
    logit_bias: added to the logits of these tokens, -100 to 100; stored as pairs by ascending token id.
    repetition_penalty: logits of tokens of prompt or output are divided by it where positive, multiplied where negative.
    frequency_penalty, presence_penalty: subtracted from the logit of a token of the output, the first as often as it
    stands there, the second once.

    How to draw, in this order:
    temperature: 0 takes the most likely token (greedy); larger is more random.
    min_p: candidates are at least this many times as likely as the most likely token; 0 takes all.
    top_k: only the k most likely tokens are candidates; 0 or -1 takes all.
    top_p: only the fewest most likely tokens whose probabilities reach this sum are candidates; 1 takes all.
    typical_p: only the fewest tokens whose probabilities reach this sum are candidates, those first whose information
    is nearest to the expected one (locally typical sampling, Meister et al. 2022); 1 takes all.
    seed: the same seed and prompt give the same text in any batch; None takes a random one.

    What to report:
    logprobs: how many of the most likely tokens are reported at every position with their log probabilities, besides the
    chosen one; None reports none. prompt_logprobs: the same for the prompt's tokens. They are those of the model, before
    anything above.

    RequestError names a field that is out of range or contradicts another; an unknown keyword raises UnknownOptionError.
    """

    n: int = 1
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str] | None = ()
    stop_token_ids: Sequence[int] | None = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] | None = ()
    allowed_token_ids: Sequence[int] | None = None
    bad_token_ids: Sequence[int] | None = ()
    bad_words: str | Sequence[str] | None = ()
    structured: Structured | Mapping[str, Any] | None = None

    def __new__(cls, *args: Any, **options: Any) -> SamplingParams:
        """Only checks the keywords; the fields are set by the generated __init__."""
        check_keywords(cls.__name__, options, [field.name for field in dataclasses.fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        put, check = functools.partial(object.__setattr__, self), Checker("SamplingParams")  # the fields are frozen
        put("n", check.integer("n", self.n, "1 or more", at_least=1))
        if self.best_of is not None:
            put("best_of", check.integer("best_of", self.best_of, "None, or n or more", at_least=1))
        for name in ("presence_penalty", "frequency_penalty"):
            put(name, check.real(name, getattr(self, name), "-2 to 2", at_least=-2, at_most=2))
        put(
            "repetition_penalty",
            check.real("repetition_penalty", self.repetition_penalty, "0.001 to 1000", at_least=0.001, at_most=1000),
        )
        put("temperature", check.real("temperature", self.temperature, "0 (greedy) or more", at_least=0))
        for name in ("top_p", "typical_p"):
            put(name, check.real(name, getattr(self, name), "over 0 and at most 1", above=0, at_most=1))
        put("top_k", check.integer("top_k", self.top_k, "-1 or 0 (all tokens), or 1 or more", at_least=-1))
        put("min_p", check.real("min_p", self.min_p, "0 to 1", at_least=0, at_most=1))
        if self.seed is not None:
            put("seed", check.integer("seed", self.seed, "None, or 0 to 2**64 - 1", at_least=0, below=1 << 64))
        for name in ("stop", "bad_words"):
            put(name, check.texts(name, getattr(self, name)))
        for name in ("stop_token_ids", "bad_token_ids"):
            ids = getattr(self, name)
            put(name, check.token_ids(name, () if ids is None else ids))
        if self.allowed_token_ids is not None:
            put("allowed_token_ids", check.token_ids("allowed_token_ids", self.allowed_token_ids))
        for name in ("ignore_eos", "skip_special_tokens"):
            check.flag(name, getattr(self, name))
        if self.max_tokens is not None:
            put("max_tokens", check.integer("max_tokens", self.max_tokens, "None, or 1 or more", at_least=1))
        put("min_tokens", check.integer("min_tokens", self.min_tokens, "0 or more", at_least=0))
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                bounds = f"None, or 0 to {MAX_LOGPROBS}"
                put(name, check.integer(name, getattr(self, name), bounds, at_least=0, below=MAX_LOGPROBS + 1))
        put("logit_bias", check.biases("logit_bias", () if self.logit_bias is None else self.logit_bias, MAX_BIAS))
        if self.structured is not None:
            put("structured", Structured.of(self.structured))
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        """RequestError for fields that are fine one by one but not together."""
        if self.best_of is not None and self.best_of < self.n:
            raise RequestError(
                f"SamplingParams asks for n={self.n} of best_of={self.best_of} answers",
                fix="generate at least as many as you want back",
            )
        if self.greedy and self.samples > 1:
            raise RequestError(
                f"SamplingParams asks for {self.samples} answers with {'temperature' if self.top_k != 1 else 'top_k'}="
                f"{0 if self.top_k != 1 else 1}",
                "the most likely token is always the same, so all answers would be",
                "give a temperature over 0, or n=1",
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"SamplingParams asks for at least min_tokens={self.min_tokens} and at most max_tokens={self.max_tokens}"
            )
        if self.allowed_token_ids is not None and not set(self.allowed_token_ids) - set(self.bad_token_ids or ()):
            raise RequestError(
                "SamplingParams allows no token: "
                + (
                    "allowed_token_ids is empty"
                    if not self.allowed_token_ids
                    else "bad_token_ids bans all allowed ones"
                ),
                fix="allow at least one token, or give allowed_token_ids=None to allow all",
            )

    @property
    def samples(self) -> int:
        """Answers that are generated: `best_of`, or `n`."""
        return self.n if self.best_of is None else self.best_of

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, with no randomness."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """`logit_bias` as it is stored: pairs by ascending token id."""
        return cast(tuple[tuple[int, float], ...], self.logit_bias)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Every token id that a field names, for the engine to check against the vocabulary."""
        biased = [token for token, _ in self.biases]
        return (*(self.stop_token_ids or ()), *biased, *(self.allowed_token_ids or ()), *(self.bad_token_ids or ()))
