"""Checks of what callers give: keywords and values, each refused by a RequestError that says what is allowed."""

from __future__ import annotations

import difflib
import functools
import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
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


class Checker:
    """Reads the values of one owner's fields; every method returns the value in its normal form or raises RequestError."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def invalid(self, name: str, value: object, allowed: str) -> RequestError:
        """The error for a value that is not allowed."""
        return RequestError(f"{self.owner}.{name} is {value!r}; allowed is {allowed}")

    def real(
        self,
        name: str,
        value: Any,
        allowed: str,
        *,
        at_least: float = -math.inf,
        above: float = -math.inf,
        at_most: float = math.inf,
    ) -> float:
        """A finite number in [at_least, at_most] and over `above`."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise self.invalid(name, value, f"a number, {allowed}")
        number = float(value)
        if not (math.isfinite(number) and at_least <= number <= at_most and number > above):
            raise self.invalid(name, value, f"a finite number, {allowed}")
        return number

    def integer(self, name: str, value: Any, allowed: str, *, at_least: int, below: int = 1 << 63) -> int:
        """An integer in [at_least, below)."""
        try:
            number = operator.index(value)
        except TypeError:
            raise self.invalid(name, value, f"an integer: {allowed}") from None
        if isinstance(value, bool) or not at_least <= number < below:
            raise self.invalid(name, value, f"an integer: {allowed}")
        return number

    def flag(self, name: str, value: Any) -> bool:
        """True or False."""
        if not isinstance(value, bool):
            raise self.invalid(name, value, "True or False")
        return value

    def token_ids(self, name: str, ids: Any) -> tuple[int, ...]:
        """A list of token ids."""
        if isinstance(ids, (str, bytes, Mapping)) or not isinstance(ids, Iterable):
            raise self.invalid(name, ids, "a list of token ids")
        return tuple(self.integer(name, i, "token ids, 0 or more", at_least=0, below=1 << 31) for i in ids)

    def texts(self, name: str, value: Any) -> tuple[str, ...]:
        """A text or a list of texts, none of them empty."""
        texts = () if value is None else (value,) if isinstance(value, str) else value
        if not isinstance(texts, Iterable) or isinstance(texts, bytes):
            raise self.invalid(name, value, "a text or a list of texts")
        texts = tuple(texts)
        for text in texts:
            if not isinstance(text, str) or not text:
                raise self.invalid(name, value, "a text or a list of texts, none of them empty")
        return texts

    def biases(self, name: str, value: Any, most: float) -> tuple[tuple[int, float], ...]:
        """A map from token ids to numbers in [-most, most], as pairs by ascending id."""
        pairs = value.items() if isinstance(value, Mapping) else value
        allowed = f"a map from token ids to numbers in [{-most:g}, {most:g}]"
        try:
            listed = [(token, bias) for token, bias in pairs]
        except (TypeError, ValueError):
            raise self.invalid(name, value, allowed) from None
        bounded = functools.partial(self.real, name, allowed=allowed, at_least=-most, at_most=most)
        read = {
            self.integer(name, token, allowed, at_least=0, below=1 << 31): bounded(value=bias) for token, bias in listed
        }
        return tuple(sorted(read.items()))
