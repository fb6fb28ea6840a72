"""How a request wants its tokens chosen and when it wants them to end. The names and defaults are vLLM's."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from .errors import RequestError


class UnknownOptionError(RequestError, TypeError):
    """A keyword that does not exist; the message lists the nearest names that do."""


def check_keywords(owner: str, given: Iterable[str], valid: Sequence[str]) -> None:
    """Raise UnknownOptionError for the keywords in `given` that are not in `valid`, with the nearest valid names."""
    unknown = [name for name in given if name not in valid]
    if not unknown:
        return
    lines = []
    for name in unknown:
        near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
        lines.append(f"{name!r}: did you mean {' or '.join(near)}?" if near else f"{name!r}: no similar name exists")
    names = ", ".join(map(repr, unknown))
    raise UnknownOptionError(f"{owner} has no option {names}", "; ".join(lines), f"valid are: {', '.join(valid)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop.

    temperature: 0 takes the most likely token (greedy); larger is more random.
    top_k: only the k most likely tokens are candidates; 0 or -1 takes all.
    top_p: only the fewest most likely tokens whose probabilities reach this sum are candidates; 1 takes all.
    seed: the same seed and prompt give the same text in any batch; None takes a random one.
    max_tokens: tokens to generate at most; None goes on until the context (or the KV pool) is full.
    stop: texts that end the generation; the output does not contain them.
    stop_token_ids: tokens that end the generation, besides the model's own end tokens.
    ignore_eos: go on after the model's end tokens.

    RequestError names a field that is out of range; an unknown keyword raises UnknownOptionError.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop: str | Sequence[str] | None = ()
    stop_token_ids: Sequence[int] | None = ()
    ignore_eos: bool = False

    def __new__(cls, *args: Any, **options: Any) -> SamplingParams:
        """Only checks the keywords; the fields are set by the generated __init__."""
        check_keywords(cls.__name__, options, [field.name for field in dataclasses.fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)  # a frozen field can be set in no other way
        put("temperature", _real("temperature", self.temperature, "0 (greedy) or more"))
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise _invalid("temperature", self.temperature, "a finite number, 0 (greedy) or more")
        put("top_k", _integer("top_k", self.top_k, "-1 or 0 (all tokens), or 1 or more", at_least=-1))
        put("top_p", _real("top_p", self.top_p, "over 0 and at most 1"))
        if not 0 < self.top_p <= 1:
            raise _invalid("top_p", self.top_p, "a number over 0 and at most 1")
        if self.seed is not None:
            put("seed", _integer("seed", self.seed, "None, or 0 to 2**64 - 1", at_least=0, below=1 << 64))
        if self.max_tokens is not None:
            put("max_tokens", _integer("max_tokens", self.max_tokens, "None, or 1 or more", at_least=1))
        put("stop", _stop_texts(self.stop))
        ids = () if self.stop_token_ids is None else self.stop_token_ids
        if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
            raise _invalid("stop_token_ids", ids, "a list of token ids")
        put("stop_token_ids", tuple(_integer("stop_token_ids", i, "token ids, 0 or more", at_least=0) for i in ids))
        if not isinstance(self.ignore_eos, bool):
            raise _invalid("ignore_eos", self.ignore_eos, "True or False")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, with no randomness."""
        return self.temperature == 0 or self.top_k == 1


def _invalid(name: str, value: object, allowed: str) -> RequestError:
    return RequestError(f"SamplingParams.{name} is {value!r}; allowed is {allowed}")


def _real(name: str, value: Any, allowed: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _invalid(name, value, f"a number, {allowed}")
    return float(value)


def _integer(name: str, value: Any, allowed: str, *, at_least: int, below: int = 1 << 63) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise _invalid(name, value, f"an integer: {allowed}") from None
    if isinstance(value, bool) or not at_least <= number < below:
        raise _invalid(name, value, f"an integer: {allowed}")
    return number


def _stop_texts(stop: Any) -> tuple[str, ...]:
    texts = () if stop is None else (stop,) if isinstance(stop, str) else stop
    if not isinstance(texts, Iterable) or isinstance(texts, bytes):
        raise _invalid("stop", stop, "a text or a list of texts")
    texts = tuple(texts)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise _invalid("stop", stop, "a text or a list of texts, none of them empty")
    return texts
