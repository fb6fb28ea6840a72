"""What a tool parser finds in a model's text: pieces of content, and calls whose arguments come piece by piece."""

from __future__ import annotations

import dataclasses
import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


@dataclasses.dataclass(frozen=True)
class Content:
    """A piece of text that belongs to no call."""

    text: str


@dataclasses.dataclass(frozen=True)
class CallBegin:
    """Call `index` (counted from 0) of function `name` begins; its arguments follow."""

    index: int
    id: str
    name: str


@dataclasses.dataclass(frozen=True)
class CallArguments:
    """The next piece of the arguments of call `index`, JSON as the model wrote it."""

    index: int
    text: str


Event = Content | CallBegin | CallArguments


@dataclasses.dataclass(frozen=True)
class Call:
    """A whole call; `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


def new_id(length: int | None) -> str:
    """The id of a call: `call_` and 24 characters as OpenAI's, or `length` letters and digits where a format has its own."""
    prefix, count = ("call_", 24) if length is None else ("", length)
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(count))
