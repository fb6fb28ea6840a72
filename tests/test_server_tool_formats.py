"""Which format a model writes calls in, the grammars that make it call, and how calls go back into its chat template."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import heddle
from heddle.runtime.errors import RequestError
from heddle.runtime.messages import for_template
from heddle.runtime.server.tools import FORMATS, parse, tool_format
from heddle.runtime.structured.llguidance_backend import LLGuidance
from heddle.runtime.structured.params import Structured
from heddle.runtime.tokenizer import Tokenizer, TokenizerError

from .llm_tools import null_artifact
from .tokenizers_for_tests import byte_level

PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
LINKED = {
    "type": "object",
    "properties": {"tree": {"$ref": "#/$defs/node"}},
    "required": ["tree"],
    "additionalProperties": False,
    "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
}  # fmt: skip
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "description": "a ::= b", "parameters": PLACE}},
    {"type": "function", "function": {"name": "plant", "parameters": LINKED}},
    {"type": "function", "function": {"name": "now"}},
]
NAMED = {"type": "function", "function": {"name": "weather"}}

# Texts as the formats' reference templates write them back into a conversation.
WRITTEN = {
    "hermes": '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>',
    "llama3": '{"name": "%s", "parameters": %s}',
    "mistral": '[TOOL_CALLS] [{"name": "%s", "arguments": %s}]',
}
TWO = {
    "hermes": "\n".join([WRITTEN["hermes"] % ("now", "{}")] * 2),
    "llama3": "; ".join([WRITTEN["llama3"] % ("now", "{}")] * 2),
    "mistral": '[TOOL_CALLS] [{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]',
}


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('{{- \'\\n<tool_call>\\n{"name": "\' }}{{- tool_call.arguments | tojson }}', "hermes"),
        ("{{- '<|start_header_id|>' }}{{- '{\"name\": \"' }}{{- '\"parameters\": ' }}", "llama3"),
        ('{{- "<|python_tag|>" + tool_call.name + ".call(" }}', "llama3"),
        ("{{- '[TOOL_CALLS] [' }}{{- out[:-1] }}", "mistral"),
        ("{{- '<tool_call>\\n<function=' + tool_call.name }}", None),  # Qwen3-Coder's XML
        ("{{ '<|im_start|>' + message.role }}", None),
        (None, None),
    ],
)
def test_the_template_shows_the_format(template: str | None, name: str | None) -> None:
    found = tool_format("auto", template)
    assert (found and found.name) == name


def test_formats_by_name() -> None:
    for name in FORMATS:
        made = tool_format(name, None)
        assert made is not None
        assert made.name == name
        assert not made.special
    with pytest.raises(RequestError, match="no tool format 'json'"):
        tool_format("json", None)


def accepted(constraint: Structured, tokens: list[int]) -> bool:
    """Whether a text of these tokens is one that the constraint lets through as a whole."""
    matcher = LLGuidance(byte_level(), 4096)(constraint).matcher([2])
    row = np.zeros(128, np.int32)
    for token in [*tokens, 2]:
        if not matcher.finished:
            matcher.fill(row)
        elif token == 2:
            return True
        if not row.view(np.uint32)[token // 32] >> np.uint32(token % 32) & 1:
            return False
        if token != 2:
            matcher.accept(token)
    return True


@pytest.mark.parametrize("name", FORMATS)
def test_required_calls(name: str) -> None:
    made, tokenizer = tool_format(name, None), byte_level()
    assert made is not None
    assert made.constraint(TOOLS, "auto") is None
    assert made.constraint(TOOLS, "none") is None
    required, single = made.constraint(TOOLS, "required"), made.constraint(TOOLS, "required", parallel=False)
    named = made.constraint(TOOLS, NAMED)
    assert required is not None
    assert single is not None
    assert named is not None

    def allowed(constraint: Structured, text: str) -> bool:
        return accepted(constraint, tokenizer.encode(text))

    good = [("weather", '{"city": "Rome"}'), ("plant", '{"tree": [[], [[]]]}'), ("now", "{}")]
    for call in good:
        text = WRITTEN[name] % call
        assert allowed(required, text)
        assert allowed(single, text)
        assert allowed(named, text) == (call[0] == "weather")
        content, calls = parse(made.parser(None), text)
        assert (content, [(c.name, c.arguments) for c in calls]) == ("", [call])
    for call in [("weather", '{"city": "Berlin"}'), ("plant", '{"tree": 1}'), ("now", '{"a": 1}'), ("other", "{}")]:
        assert not allowed(required, WRITTEN[name] % call)
    assert not allowed(required, "Just text")
    assert allowed(required, TWO[name])
    assert not allowed(single, TWO[name])


def test_special_tokens_stand_in_the_grammar_by_their_ids() -> None:
    """Text cannot spell a special token, so a marker that is one is named by its id."""
    tokenizer = byte_level()
    made = tool_format("hermes", None)
    assert made is not None
    special = dataclasses.replace(made, special_ids={"<tool_call>": 0, "</tool_call>": 1})
    assert special.special
    constraint = special.constraint(TOOLS, NAMED)
    assert constraint is not None
    inside = tokenizer.encode('\n{"name": "weather", "arguments": {"city": "Rome"}}\n')
    assert accepted(constraint, [0, *inside, 1])
    assert not accepted(constraint, tokenizer.encode("<tool_call>") + inside)


def test_markers_that_are_special_tokens_are_found(tmp_path: Path) -> None:
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(Path(__file__).parents[1] / "examples/tinydoc/tokenizer.json"))
    backend.add_special_tokens(["[TOOL_CALLS]"])
    backend.add_tokens(["<tool_call>"])
    tokenizer = Tokenizer(backend, {})
    mistral, hermes = tool_format("mistral", None, tokenizer), tool_format("hermes", None, tokenizer)
    assert mistral is not None
    assert hermes is not None
    assert (mistral.special, mistral.special_ids) == (True, {"[TOOL_CALLS]": 4096})
    assert not hermes.special
    assert tokenizer.decode([4096, 300], skip_special_tokens=False).startswith("[TOOL_CALLS]")


@pytest.mark.parametrize(
    ("choice", "tools", "message"),
    [
        ("always", TOOLS, "tool_choice is 'always'"),
        ({"type": "function"}, TOOLS, "allowed are"),
        ({"type": "function", "function": {"name": "walk"}}, TOOLS, "'walk', which is not among the tools: 'weather'"),
        ("required", [], "there are no tools"),
        ("required", [{"function": {"name": "f", "parameters": {"type": "object", "not": {}}}}], "function 'f'.*not"),
    ],
)
def test_bad_choices(choice: Any, tools: list[dict[str, Any]], message: str) -> None:
    made = tool_format("hermes", None)
    assert made is not None
    with pytest.raises(RequestError, match=message):
        made.constraint(tools, choice)


# Calls in the conversation


def call(arguments: Any, **others: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}, **others}


@pytest.mark.parametrize(("given", "seen"), [('{"a": 1}', {"a": 1}), ({"a": 1}, {"a": 1}), ("", {}), (" ", {})])
def test_arguments_reach_the_template_as_objects(given: Any, seen: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [call(given)]}
    before = json.dumps(message)
    (prepared,) = for_template([message])
    assert prepared == {"role": "assistant", "content": "", "tool_calls": [call(seen)]}
    assert json.dumps(message) == before  # the caller's is as it was
    flat = {"role": "assistant", "content": "x", "tool_calls": [{"name": "f", "arguments": given}]}
    assert for_template([flat])[0]["tool_calls"] == [{"name": "f", "arguments": seen}]


def test_messages_without_calls_stay_as_they_are() -> None:
    plain = {"role": "user", "content": "x"}
    assert for_template([plain])[0] is plain
    assert for_template([{"role": "assistant", "content": "x", "tool_calls": []}]) == [
        {"role": "assistant", "content": "x"}
    ]


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ("f()", r"messages\[0\].tool_calls is a str"),
        ([3], "has no function with a name"),
        ([{"function": {}}], "has no function with a name"),
        ([call("{")], "arguments of 'f' are no JSON"),
        ([call("[" * 100_000)], "arguments of 'f' are no JSON"),
        ([call("[1]")], "must be a JSON object"),
        ([call(7)], "must be a JSON object"),
    ],
)
def test_bad_calls_in_messages(calls: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        for_template([{"role": "assistant", "tool_calls": calls}])


TEMPLATE = """{%- for message in messages %}{{ message.role }}: {{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function.arguments | tojson }}</tool_call>{% endfor %}|{% endfor %}
{%- for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"""


def test_another_chat_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = null_artifact(tmp_path, monkeypatch)
    file = tmp_path / "mine.jinja"
    file.write_text(TEMPLATE)
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call('{"a": "é"}')]},
    ]
    for given in (TEMPLATE, file, str(file)):
        llm = heddle.LLM(folder, chat_template=given)
        text = llm.prompts.conversation(talk, TOOLS)
        assert text == 'user: hi|assistant: <tool_call>{"a": "é"}</tool_call>|[weather][plant][now]'
        found = tool_format("auto", llm.needed_tokenizer().chat_template())
        assert found is not None
        assert found.name == "hermes"
    assert "im_start" in heddle.LLM(folder).prompts.conversation(talk[:1])


def test_bad_chat_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = null_artifact(tmp_path, monkeypatch)
    (tmp_path / "empty.jinja").touch()
    for given, error, message in [
        ("{% if %}", TokenizerError, "template is broken"),
        ("nowhere.jinja", RequestError, "cannot be read"),
        ("x\0y", RequestError, "cannot be read"),
        (7, RequestError, "must be the text of a template"),
        (tmp_path / "empty.jinja", RequestError, "is empty"),
    ]:
        with pytest.raises(error, match=message):
            heddle.LLM(folder, chat_template=given)  # type: ignore[arg-type]
