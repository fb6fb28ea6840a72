"""The formats in which models write calls: how to know one, how to read it, and how to make a model write it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ...errors import RequestError
from ...structured.params import Structured
from ...structured.schema import prepared
from ...tokenizer import Tokenizer
from . import hermes, llama3, mistral
from .parser import ToolParser

Tools = Sequence[Mapping[str, Any]]
"""Functions as OpenAI describes them: `{"type": "function", "function": {"name": ..., "parameters": JSON schema}}`."""


@dataclasses.dataclass(frozen=True)
class ToolFormat:
    """One format.

    parser: makes a parser for one answer, given the names of the functions.
    markers: the texts that may be tokens of their own. `special_ids` has the ids of those that are special, so that decoding
    leaves them out: where there are any, requests need skip_special_tokens=False.
    opening, before, between, after, separator, closing: calls are written `opening CALL separator CALL closing`, and a call
    `before NAME between ARGUMENTS after`.
    signs: a chat template is of this format if it has all texts of one of these, and none of `others`.
    """

    name: str
    parser: Callable[[Collection[str] | None], ToolParser]
    markers: tuple[str, ...]
    before: str
    between: str
    after: str
    separator: str
    signs: tuple[tuple[str, ...], ...]
    others: tuple[str, ...] = ()
    opening: str = ""
    closing: str = ""
    special_ids: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def special(self) -> bool:
        """Whether its calls are only seen with skip_special_tokens=False."""
        return bool(self.special_ids)

    def written_by(self, template: str) -> bool:
        """Whether a chat template speaks of calls in this format."""
        known = any(all(sign in template for sign in signs) for signs in self.signs)
        return known and not any(other in template for other in self.others)

    def constraint(self, tools: Tools, tool_choice: Any, parallel: bool = True) -> Structured | None:
        """The grammar that a choice of tools asks for; None where the model may write what it likes.

        `tool_choice` is "auto", "none", "required", or `{"type": "function", "function": {"name": ...}}`; with the last, and
        without `parallel`, there is one call. Arguments follow the `parameters` of their function in every point.
        RequestError for a choice that is none of these, and for a function that is not among `tools`.
        """
        if tool_choice in (None, "auto", "none"):
            return None
        functions = [tool["function"] for tool in tools]
        if tool_choice != "required":
            functions = [_chosen(functions, tool_choice)]
            parallel = False
        if not functions:
            raise RequestError(
                "tool_choice is 'required', and there are no tools", fix="give tools, or another tool_choice"
            )
        return Structured(grammar=self._grammar(functions, parallel))

    def _grammar(self, functions: Sequence[Mapping[str, Any]], parallel: bool) -> str:
        """Lark as llguidance takes it: the text around the arguments as models write it, each schema a root of its own."""
        names = [f"call_{i}" for i in range(len(functions))]
        lines = [
            f"start: {self._literal(self.opening)} calls {self._literal(self.closing)}",
            f"calls: call{f' ({self._literal(self.separator)} call)*' if parallel else ''}",
            f"call: {' | '.join(names)}",
        ]
        for name, function in zip(names, functions, strict=True):
            begin = self.before + json.dumps(function["name"], ensure_ascii=False) + self.between
            lines.append(f"{name}: {self._literal(begin)} arguments_{name} {self._literal(self.after)}")
            lines.append(f"arguments_{name}: %json {json.dumps(_schema(function))}")
        return "\n".join(lines)

    def _literal(self, text: str) -> str:
        """A text in the grammar; the markers in it that are special tokens stand as such."""
        pattern = "|".join(map(re.escape, self.special_ids))
        parts = re.split(f"({pattern})", text) if pattern else [text]
        return " ".join(
            f"<[{self.special_ids[part]}]>" if part in self.special_ids else json.dumps(part) for part in parts if part
        )


def _schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments, which are written on one line as chat templates show them."""
    given = function.get("parameters") or {"properties": {}, "additionalProperties": False}
    try:
        checked = json.loads(prepared(str(Structured(json=given).text)))
    except RequestError as error:
        raise RequestError(
            f"the parameters of function {function['name']!r}: {error.what}", error.why, error.fix
        ) from error
    layout = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return {"type": "object", **checked, "x-guidance": layout}


def _chosen(functions: Sequence[Mapping[str, Any]], choice: Any) -> Mapping[str, Any]:
    """The function that `tool_choice` names."""
    named = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    name = named.get("name") if isinstance(named, Mapping) else None
    if name is None:
        raise RequestError(
            f"tool_choice is {choice!r}",
            "allowed are 'none', 'auto', 'required' and {'type': 'function', 'function': {'name': ...}}",
        )
    for function in functions:
        if function["name"] == name:
            return function
    known = ", ".join(repr(function["name"]) for function in functions) or "none"
    raise RequestError(f"tool_choice names the function {name!r}, which is not among the tools: {known}")


_FORMATS = (
    ToolFormat(
        "hermes",
        hermes.HermesParser,
        markers=(hermes.OPEN, hermes.CLOSE),
        opening=hermes.OPEN + "\n",
        before='{"name": ',
        between=', "arguments": ',
        after="}",
        separator=f"\n{hermes.CLOSE}\n{hermes.OPEN}\n",
        closing="\n" + hermes.CLOSE,
        signs=((hermes.OPEN,),),
        others=("<function=", "<arg_key>"),  # Qwen3-Coder and GLM write something else between the markers
    ),
    ToolFormat(
        "llama3",
        llama3.Llama3Parser,
        markers=(llama3.TAG,),
        before='{"name": ',
        between=', "parameters": ',
        after="}",
        separator="; ",
        signs=((llama3.TAG,), ("<|start_header_id|>", '"parameters":'), ("<|header_start|>", '"parameters":')),
    ),
    ToolFormat(
        "mistral",
        mistral.MistralParser,
        markers=(mistral.MARKER, mistral.ARGUMENTS, mistral.CALL_ID),
        opening=mistral.MARKER + " [",
        before='{"name": ',
        between=', "arguments": ',
        after="}",
        separator=", ",
        closing="]",
        signs=((mistral.MARKER,),),
    ),
)

FORMATS = tuple(form.name for form in _FORMATS)
"""Names of all formats."""


def tool_format(name: str, template: str | None, tokenizer: Tokenizer | None = None) -> ToolFormat | None:
    """The format of this name; with "auto" the one that the chat template shows, None where it shows none.

    `tokenizer` tells which of its markers are special tokens. RequestError for a name that does not exist.
    """
    if name != "auto" and name not in FORMATS:
        raise RequestError(f"there is no tool format {name!r}", fix=f"valid are auto, {', '.join(FORMATS)}")
    for form in _FORMATS:
        if form.name == name or (name == "auto" and template and form.written_by(template)):
            ids = {} if tokenizer is None else tokenizer.vocabulary
            special = frozenset() if tokenizer is None else tokenizer.special_ids
            return dataclasses.replace(form, special_ids={m: ids[m] for m in form.markers if ids.get(m) in special})
    return None
