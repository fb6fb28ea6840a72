"""Calls in the texts that models write: every format, cut anywhere, and what only looks like a call."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heddle.runtime.server.tools import CallArguments, CallBegin, Content, Event, parse, tool_format
from heddle.runtime.server.tools.scanner import JsonScanner

NAMES = ("get_weather", "add")
WEATHER = '{"city": "Paris \\"}]{", "days": [1, -2.5e3, {"unit": null}], "ok": true}'

ONE, TWO = [("add", '{"a": 1}')], [("add", '{"a": 1}'), ("add", '{"a": 2}')]
NONE = [("add", "{}")]

# (format, text, content, calls)
CALLS: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    ("hermes", f'<tool_call>\n{{"name": "f", "arguments": {WEATHER}}}\n</tool_call>', "", [("f", WEATHER)]),
    (
        "hermes",
        'Let me see.\n\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n'
        '{"name": "add", "arguments": {"a": 2}}\n</tool_call>\nDone. ',
        "Let me see.\nDone.",
        TWO,
    ),
    ("hermes", '<think>\nhm</think>\n\n<tool_call>{"arguments": {"a": 1}, "name": "add"}', "<think>\nhm</think>", ONE),
    ("hermes", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", ONE),
    ("hermes", '<tool_call>{"name": "add", "id": 7, "arguments": null}</tool_call>', "", NONE),
    ("hermes", '<tool_call>{"name": "add"}</tool_call>', "", NONE),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}}', "", ONE),  # an end token closes it
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}\n</tool_call>', "", ONE),  # one } short
    ("hermes", '<tool_call>{"name": "a"}{"name": "b"}</tool_call>', "", [("a", "{}"), ("b", "{}")]),
    ("llama3", f'{{"name": "get_weather", "parameters": {WEATHER}}}', "", [("get_weather", WEATHER)]),
    ("llama3", '\n{"type": "function", "name": "add", "parameters": {"a": 1}}', "", ONE),
    ("llama3", '<|python_tag|>{"name": "add", "arguments": {"a": 1}}', "", ONE),
    ("llama3", '{"name": "add", "parameters": {"a": 1}}; {"name": "add", "parameters": {"a": 2}}', "", TWO),
    ("llama3", 'I look.<|python_tag|>{"name": "add", "parameters": {}}\nSo', "I look.\nSo", NONE),
    ("mistral", f'[TOOL_CALLS] [{{"name": "f", "arguments": {WEATHER}}}]', "", [("f", WEATHER)]),
    ("mistral", '[TOOL_CALLS][{"name":"add","arguments":{"a": 1}},\n {"name":"add","arguments":{"a": 2}}]', "", TWO),
    ("mistral", 'Sure. [TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]add{"a": 2}', "Sure.", TWO),
    ("mistral", '[TOOL_CALLS]add[CALL_ID]a1B2c3D4e[ARGS]{"a": 1}', "", ONE),
    ("mistral", '[TOOL_CALLS] {"name": "add", "arguments": {}}', "", NONE),
]

NO_CALLS = [
    ("hermes", "Just text, with spaces at the end. \n"),
    ("hermes", "A <tool_cal and <tool_call"),
    ("hermes", "Write <tool_call> before it."),
    ("hermes", '<tool_call>\n{"name": "add", arguments: {}}\n</tool_call>'),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call> and more'),
    ("hermes", '<tool_call>{"name": "add", "arguments": [1, 2]}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "add", "argum'),
    ("llama3", "  Just text"),
    ("llama3", '{"answer": {"name": "add", "parameters": {}}}'),
    ("llama3", '{"name": "Alice", "parameters": {"age": 3}}'),  # no function of that name
    ("llama3", '{"name": "add", "age": 3}'),
    ("llama3", '{"name": "add"}'),
    ("llama3", "{ not JSON"),
    ("llama3", '<|python_tag|>brave_search.call(query="x")'),
    ("llama3", 'Text, then {"name": "add", "parameters": {}}'),
    ("mistral", "[TOOL_CALLS] nothing"),
    ("mistral", "[TOOL_CALLS] []"),
    ("mistral", "a list [1, 2] and [TOOL_CALL"),
    ("mistral", "[TOOL_CALLS]add"),
]


def merged(events: list[Event]) -> list[Any]:
    """Events with neighbouring pieces of one thing joined, and without ids."""
    found: list[list[Any]] = []
    for event in events:
        new = (
            [CallBegin, event.name]
            if isinstance(event, CallBegin)
            else [type(event), getattr(event, "index", 0), event.text]
        )
        if found and len(new) == 3 and found[-1][:2] == new[:2]:
            found[-1][2] += new[2]
        else:
            found.append(new)
    return found


def streamed(form: str, pieces: list[str]) -> list[Any]:
    made = tool_format(form, None)
    assert made is not None
    parser = made.parser(NAMES)
    return merged([event for piece in pieces for event in parser.push(piece)] + parser.finish())


def check_cuts(form: str, text: str) -> list[Any]:
    """The events of a text, which are the same however it is cut."""
    whole = streamed(form, [text])
    assert streamed(form, list(text)) == whole
    for cut in range(len(text)):
        assert streamed(form, [text[:cut], text[cut:]]) == whole, (text[:cut], text[cut:])
    return whole


@pytest.mark.parametrize(("form", "text", "content", "calls"), CALLS)
def test_calls(form: str, text: str, content: str, calls: list[tuple[str, str]]) -> None:
    made = tool_format(form, None)
    assert made is not None
    got, found = parse(made.parser(NAMES if form == "llama3" else None), text)
    assert got == content
    assert [(call.name, call.arguments) for call in found] == calls
    assert len({call.id for call in found}) == len(calls)
    for call in found:
        assert re.fullmatch("[a-zA-Z0-9]{9}" if form == "mistral" else "call_[a-zA-Z0-9]{24}", call.id)
        assert isinstance(json.loads(call.arguments), dict)
    events = check_cuts(form, text)
    assert "".join(e[2] for e in events if e[0] is Content) == content
    assert [e[2] for e in events if e[0] is CallArguments] == [arguments for _, arguments in calls]


@pytest.mark.parametrize(("form", "text"), NO_CALLS)
def test_what_only_looks_like_a_call_is_content(form: str, text: str) -> None:
    assert check_cuts(form, text) == [[Content, 0, text]]


@pytest.mark.parametrize(
    ("form", "begin", "end"),
    [
        ("hermes", '<tool_call>{"name": "add", "arguments": ', "}</tool_call>"),
        ("llama3", '{"name": "add", "parameters": ', "}"),
        ("mistral", "[TOOL_CALLS]add[ARGS]", ""),
    ],
)
def test_arguments_that_break_on_the_way(form: str, begin: str, end: str) -> None:
    """They are out by then: the stream has all of them as they were written, a whole answer has the text as content."""
    text = begin + '{"a": 1, b}' + end
    events = check_cuts(form, text)
    shown = "".join(e[2] for e in events if e[0] is CallArguments)
    assert shown.startswith('{"a": 1, b}')
    assert text.startswith(begin + shown)
    made = tool_format(form, None)
    assert made is not None
    assert parse(made.parser(NAMES), text) == (text, [])
    cut = begin + '{"a": '  # by max_tokens
    assert check_cuts(form, cut) == [[CallBegin, "add"], [CallArguments, 0, '{"a": ']]


def test_after_a_broken_call_come_others() -> None:
    text = '<tool_call>{"name": "add", "arguments": {bad}}</tool_call>\n<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    made = tool_format("hermes", None)
    assert made is not None
    content, calls = parse(made.parser(None), text)
    assert (content, [call.arguments for call in calls]) == (text.split("\n")[0], ["{}"])
    check_cuts("hermes", text)


def test_arguments_come_as_they_are_written() -> None:
    made = tool_format("hermes", None)
    assert made is not None
    parser = made.parser(None)
    assert parser.push('<tool_call>\n{"name": "add"') == []
    begin, first = parser.push(', "arguments": {"a": "so')
    assert isinstance(begin, CallBegin)
    assert (begin.index, begin.name, first) == (0, "add", CallArguments(0, '{"a": "so'))
    assert parser.push(" far") == [CallArguments(0, " far")]
    assert parser.push('"}}\n</tool_call>') == [CallArguments(0, '"}')]


def test_content_is_held_back_only_as_long_as_it_may_be_a_call() -> None:
    made = tool_format("hermes", None)
    assert made is not None
    parser = made.parser(None)
    assert [parser.push(part) for part in ("a", " ", "b <to", "ol>", "\n")] == [
        [Content("a")], [], [Content(" b")], [Content(" <tool>")], [],
    ]  # fmt: skip
    assert parser.finish() == [Content("\n")]


MARKERS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", '{"name": "add"']
PARTS = [', "arguments": ', '{"a": 1}', '{"a"', "add", "nul", *'{}[],;"\\: \n1xé']
pieces = st.sampled_from([*MARKERS, *PARTS])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["hermes", "llama3", "mistral"]), st.lists(pieces, max_size=14))
@example("mistral", ["[TOOL_CALLS]", "[", '{"name": "add"', "}", ",", "]", "x"])
def test_any_text_cut_anywhere(form: str, parts: list[str]) -> None:
    whole = streamed(form, ["".join(parts)])
    assert streamed(form, parts) == whole
    assert streamed(form, list("".join(parts))) == whole


# JSON, followed


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def refuse(name: str) -> None:
    raise ValueError(name)


def follow(text: str, width: int) -> JsonScanner:
    """`text` and a space behind it, which ends a number, scanned in pieces."""
    scanner, text = JsonScanner(), text + " "
    for at in range(0, len(text), width):
        piece = text[at : at + width]
        read = scanner.scan(piece, 0)
        if scanner.broken or scanner.done:
            scanner.broken |= bool(text[at + read :].strip(" \t\r\n"))  # something behind the value
            break
    return scanner


@settings(max_examples=400, deadline=None)
@given(json_values, st.booleans(), st.sampled_from([None, 1]), st.integers(1, 9), st.data())
def test_scanner_knows_json(value: Any, ascii_only: bool, indent: int | None, width: int, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert follow(text, width).done
    at = data.draw(st.integers(0, len(text) - 1))
    wrong = (
        text[:at]
        + data.draw(st.sampled_from(["", "0", '"', "}", "]", ",", "{", ":", "e", "\\", "-", "\n", " "]))
        + text[at + 1 :]
    )
    try:
        json.loads(wrong, parse_constant=refuse)
        right = True
    except ValueError:
        right = False
    scanner = follow(wrong, width)
    assert (scanner.done and not scanner.broken) == right, wrong
