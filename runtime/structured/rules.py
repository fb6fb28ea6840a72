"""Choices and grammars in other notations, in those of the backend."""

from __future__ import annotations

import re

from ..errors import RequestError

_META = re.compile(r"[\\.+*?()|\[\]{}^$#&~\-/ ]")


def choices_as_regex(texts: tuple[str, ...]) -> str:
    """A regular expression (Rust's syntax) of exactly these texts."""
    return "|".join(_META.sub(lambda found: f"\\x{ord(found[0]):02X}", text) for text in texts)


def is_gbnf(grammar: str) -> bool:
    """Whether a grammar is llama.cpp's GBNF, which defines by `::=`."""
    return re.search(r"^\s*[\w-]+\s*::=", grammar, re.MULTILINE) is not None


def gbnf_as_lark(grammar: str) -> str:
    """A GBNF grammar in Lark's syntax, by the converter that comes with llguidance."""
    from llguidance import gbnf_to_lark

    try:
        return str(gbnf_to_lark.any_to_lark(grammar))
    except Exception as error:  # it indexes past the end of what it reads
        raise RequestError(f"Structured.grammar cannot be read as GBNF: {error}") from error
