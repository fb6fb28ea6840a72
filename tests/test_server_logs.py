"""Logs of the server: ids, a line a request, two formats, and nothing that a client could write into them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from heddle.runtime.server import logs

LOG = logging.getLogger("heddle.server")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("heddle", "uvicorn")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate, logger.level = handlers, propagate, level
        logger.setLevel(level)


def lines(log_format: str, *calls: Any, level: str = "info") -> list[str]:
    stream = io.StringIO()
    logs.configure(log_format, level, stream)
    for call in calls:
        call()
    return stream.getvalue().splitlines()


def ask(app: Any, path: str = "/v1/completions", headers: Any = (), receive: Any = None) -> Any:
    """Serve one request; returns the messages that were sent."""
    sent: list[Any] = []

    async def no_more() -> Any:
        return {"type": "http.request", "body": b"a secret prompt", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), "state": {}}
    asyncio.run(logs.RequestLog(app)(scope, receive or no_more, send))
    return sent


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    LOG.info("inside")
    scope["state"] |= {"prompt_tokens": 5, "generated_tokens": 7}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b"12345", "more_body": True})
    await send({"type": "http.response.body", "body": b"678"})


async def fails(scope: Any, receive: Any, send: Any) -> None:
    raise ZeroDivisionError("no")


def test_a_line_of_json_for_each_request() -> None:
    sent: list[Any] = []
    ids = ("given-1", "x" * 129, "a b", 'a"\nb', "")
    asks = [lambda name=name: sent.append(ask(answers, headers=[(b"x-request-id", name.encode())])) for name in ids]
    found = [json.loads(line) for line in lines("json", *asks)]
    assert len(found) == 2 * len(ids)
    names = [dict(messages[0]["headers"])[b"x-request-id"].decode() for messages in sent]
    assert [line["request_id"] for line in found] == [name for name in names for _ in range(2)]
    assert names[0] == "given-1"
    assert len(set(names)) == len(names)
    assert all(len(name) == 32 for name in names[1:])
    inside, last = found[:2]
    assert inside["message"] == "inside"
    expected = {"method": "POST", "path": "/v1/completions", "status": 200, "bytes": 8, "level": "info"}
    assert expected.items() <= last.items()
    assert (last["prompt_tokens"], last["generated_tokens"]) == (5, 7)
    assert last["seconds"] >= 0
    assert "secret" not in str(found)
    assert logs.request_id.get() == ""


def test_text_stays_on_its_line() -> None:
    found = lines("text", lambda: ask(answers, "/a\n2026 ERROR forged\x1b[31m"))
    assert len(found) == 2
    assert "POST /a\\n2026 ERROR forged\\x1b[31m 200 seconds=" in found[1]
    assert found[1].endswith("bytes=8 prompt_tokens=5 generated_tokens=7")


def test_errors_and_clients_that_leave() -> None:
    async def disconnected() -> Any:
        return {"type": "http.disconnect"}

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()

    async def never(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    def failing() -> None:
        with pytest.raises(ZeroDivisionError):
            ask(fails)

    calls = [failing, lambda: ask(waits, receive=disconnected), lambda: ask(never, receive=disconnected)]
    failed, left, unanswered = (json.loads(line) for line in lines("json", *calls))
    assert failed["status"] == 500
    assert (left["status"], left["disconnected"]) == (200, True)
    assert (unanswered["status"], unanswered["disconnected"]) == (499, True)


def test_what_is_asked_all_the_time_is_for_debugging() -> None:
    assert [line for line in lines("json", lambda: ask(answers, "/health")) if "inside" not in line] == []
    assert len(lines("json", lambda: ask(answers, "/metrics"), level="debug")) == 2


def test_tracebacks_and_other_connections() -> None:
    def fail() -> None:
        try:
            raise ZeroDivisionError("no")
        except ZeroDivisionError:
            LOG.exception("it failed")

    (line,) = lines("json", fail)
    assert "ZeroDivisionError: no" in json.loads(line)["exception"]
    assert "ERROR heddle.server it failed" in lines("text", fail)[0]
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    call: Any = logs.RequestLog(app)
    assert lines("json", lambda: asyncio.run(call({"type": "lifespan"}, None, None))) == []
    assert seen == ["lifespan"]
