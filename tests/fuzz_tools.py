"""Bodies that nobody should send, and an ASGI client that is told everything about the answers."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

TALK = [{"role": "user", "content": "hi"}]
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, "x", None]}},
    "required": ["a"],
    "additionalProperties": False,
}
SAMPLING = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 4,
    "seed": 1,
    "stop": ["x"],
    "logit_bias": {"5": 1},
    "min_p": 0.1,
}
PENALTIES = {
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.1,
    "bad_words": ["no"],
    "priority": 2,
}

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}

BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"model": "test", "messages": TALK, "max_tokens": 3, **SAMPLING}),
    ("/v1/chat/completions", {"messages": TALK, "max_completion_tokens": 2, "n": 2, "stream": True, "logprobs": True}),
    (
        "/v1/chat/completions",
        {
            "messages": [
                *TALK,
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "x"}]},
            ],
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": "auto",
            "max_tokens": 3,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": TALK,
            "max_tokens": 9,
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
        },
    ),
    ("/v1/completions", {"prompt": "a b c", "max_tokens": 3, "logprobs": 2, "echo": True, **PENALTIES}),
    ("/v1/completions", {"prompt": [[5, 6], [7]], "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "structured_outputs": {"regex": "[ab]{1,3}"}, "timeout": 9.5}),
    ("/v1/responses", {"input": "hi", "instructions": "be", "max_output_tokens": 3, "stream": True}),
    (
        "/v1/responses",
        {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}],
            "max_output_tokens": 3,
            "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}},
            "tools": [{"type": "function", **FUNCTION}],
        },
    ),
    ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}),
    ("/tokenize", {"messages": TALK, "add_generation_prompt": True}),
    ("/tokenize", {"prompt": "hi", "return_token_strs": True}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
]  # fmt: skip

RAW = "@raw:"
"""A text that begins so stands in the body as it is, without its quotes."""


def nested(depth: int, bracket: str) -> str:
    """Arrays or objects within each other, as text."""
    return RAW + ("[" * depth + "]" * depth if bracket == "[" else '{"a":' * depth + "1" + "}" * depth)


def junk(rng: random.Random) -> Any:
    """A value that does not belong where it is put, mostly."""
    texts = [
        "",
        "x",
        "auto",
        "é你🎉",
        "\0",
        "a" * 5000,
        "../../etc",
        "{{ 7 * 7 }}",
        "(" * 60,
        '{"a": 1}',
        "<tool_call>",
    ]
    raws = [
        "NaN",
        "-Infinity",
        "1e999",
        "-0",
        "0.0",
        "9" * 400,
        "9" * 5000,
        "1e-400",
        '"\\ud800"',
        '"\\ud83c\\udf89"',
        "01",
        "+1",
    ]
    numbers = [None, True, False, 0, -1, 1, 1.5, 1e308, 2**31, 2**63, 2**64, -(2**63), 10**30]
    holders: list[Any] = [
        [],
        {},
        [[]],
        {"a": 1},
        [None] * 50,
        list(range(300)),
        [{}],
        {"": ""},
        {"$ref": "#"},
        {"type": "text"},
    ]
    kind = rng.randrange(5)
    if kind == 0:
        return nested(rng.choice([3, 70, 500, 20_000]), rng.choice("[{"))
    if kind == 1:
        return RAW + rng.choice(raws)
    return rng.choice([texts, numbers, holders][kind - 2])


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from places(item)


def written(value: Any) -> bytes:
    """JSON, with raw parts."""
    if isinstance(value, str) and value.startswith(RAW):
        return value.removeprefix(RAW).encode()
    if isinstance(value, dict):
        return b"{" + b",".join(json.dumps(key).encode() + b":" + written(item) for key, item in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(written, value)) + b"]"
    return json.dumps(value).encode()


def spoiled(data: bytes, rng: random.Random) -> bytes:
    """The same bytes, damaged."""
    at = rng.randrange(len(data) + 1)
    bad = rng.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b'"', b"\\", b"{", b"]", b",", b"\xef\xbb\xbf"])
    return rng.choice(
        [data[:at], data[:at] + bad + data[at:], data[:at] + bad + data[at + 1 :], data + bad, data * 2, bad]
    )


def body(rng: random.Random) -> tuple[str, bytes]:
    """A path, and a body for it that is wrong somewhere, mostly."""
    path, good = rng.choice(BODIES)
    value: Any = copy.deepcopy(good)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        holder, key = rng.choice([*places(value)])
        change = rng.randrange(8)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[rng.choice(["foo", "max_token", "", "__class__", "self", "\u202e"])] = junk(rng)
        elif change == 2 and isinstance(holder, dict):
            path, other = rng.choice(BODIES)
            field = rng.choice([*other])
            holder[field] = copy.deepcopy(other[field])
        else:
            holder[key] = junk(rng)
        if not value:
            break
    data = written(value)
    if rng.random() < 0.02:
        data = written(junk(rng))
    return path, spoiled(data, rng) if rng.random() < 0.15 else data


async def ask(app: FastAPI, path: str, data: bytes = b"", method: str = "POST", **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer. AssertionError where it does not come in a minute."""
    incoming = [{"type": "http.request", "body": data, "more_body": False}]
    status, parts = 0, []

    async def receive() -> Any:
        if incoming:
            return incoming.pop()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    given = {"host": "test", "content-type": "application/json", "content-length": str(len(data)), **headers}
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1)}
    scope |= {"server": ("test", 80), "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in given.items()]}
    try:
        async with asyncio.timeout(60):
            await app(scope, receive, send)
    except TimeoutError:
        raise AssertionError(f"{method} {path} hangs: {data[:500]!r}") from None
    return status, b"".join(parts)


def check(status: int, answer: bytes, said: object) -> None:
    """An answer is one of OpenAI's, and no fault of the server; `said` is what was asked."""
    assert 200 <= status < 500, (status, answer[:500], said)
    text = answer.decode()
    if status >= 400:
        error = json.loads(text)["error"]
        assert set(error) == {"message", "type", "param", "code"}, said
        assert error["message"], said
        assert len(error["message"]) < 5000, (len(error["message"]), said)
    elif text.startswith(("data: ", "event: ")):
        for event in text.removesuffix("\n\n").split("\n\n"):
            line = event.split("\n")[-1]
            assert line.startswith("data: "), (line, said)
            if line != "data: [DONE]":
                found = json.loads(line.removeprefix("data: "))
                assert found.get("error", {}).get("type") != "server_error", (found, said)
                assert found.get("type") != "response.failed", (found, said)
    else:
        json.loads(text)
