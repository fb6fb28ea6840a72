"""Calls of functions in a model's text: formats, parsers, and grammars that make a model call.

`tool_format(name, template, tokenizer)` finds the format; `form.parser(names)` makes a `ToolParser` for one answer, whose
`push(text)` and `finish()` return `Content`, `CallBegin` and `CallArguments`; `parse(parser, text)` reads a whole answer;
`form.constraint(tools, tool_choice)` is what a request is constrained by.
"""

from __future__ import annotations

from .events import Call, CallArguments, CallBegin, Content, Event
from .formats import FORMATS, ToolFormat, tool_format
from .parser import ToolParser, parse

__all__ = [
    "FORMATS",
    "Call",
    "CallArguments",
    "CallBegin",
    "Content",
    "Event",
    "ToolFormat",
    "ToolParser",
    "parse",
    "tool_format",
]
