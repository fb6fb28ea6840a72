"""Logs of a server: an id for each request, a line at its end, and all lines as text or as JSON.

Neither prompts nor keys are ever logged. A handler tells of tokens by `scope["state"]`: "prompt_tokens" and "generated_tokens".
"""

from __future__ import annotations

import contextvars
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import IO, Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ACCESS = logging.getLogger("heddle.access")
FORMATS = ("text", "json")
HEADER = b"x-request-id"
SANE_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
QUIET = ("/health", "/metrics")
"""Paths that are asked every few seconds; their lines are for debugging."""
CLOSED = 499
"""The status of a request whose client went before there was an answer, as other servers log it."""

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""The id of the request that is being handled, "" outside of any."""


class RequestLog:
    """ASGI middleware: gives each request an id and logs a line when it is over.

    A client's X-Request-Id is taken over where it is sane (SANE_ID), else one is made; the answer has it in the same header,
    `scope["state"]["request_id"]` and `request_id` have it inside.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == HEADER), b"")
        name = given.decode() if SANE_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = name
        token = request_id.set(name)
        begin, status, sent, complete, gone = time.perf_counter(), 0, 0, False, False

        async def receive_and_look() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or (message["type"] == "http.disconnect" and not complete)
            return message

        async def send_and_count(message: Message) -> None:
            nonlocal status, sent, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (HEADER, name.encode())]}
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                complete = not message.get("more_body", False)
            await send(message)

        failed = False
        try:
            await self._app(scope, receive_and_look, send_and_count)
        except BaseException:
            failed = True
            raise
        finally:
            if not status:
                status = CLOSED if gone or not failed else 500
            fields: dict[str, Any] = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(time.perf_counter() - begin, 6),
                "bytes": sent,
            }
            fields |= {key: state[key] for key in ("prompt_tokens", "generated_tokens") if key in state}
            if gone and not complete:
                fields["disconnected"] = True
            level = logging.DEBUG if scope["path"] in QUIET and status < 400 else logging.INFO
            ACCESS.log(level, "request", extra={"fields": fields})
            request_id.reset(token)


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,000 INFO heddle.access [id] POST /v1/completions 200 ...`, one line and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with its fields as name=value."""
        name, fields = request_id.get(), dict(getattr(record, "fields", {}))
        head = f"{self.formatTime(record)} {record.levelname} {record.name} " + (f"[{name}] " if name else "")
        if fields:
            said = " ".join(_plain(str(fields.pop(key))) for key in ("method", "path", "status") if key in fields)
            text = " ".join([said, *(f"{key}={value}" for key, value in fields.items())])
        else:
            text = record.getMessage()
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return head + text + trace


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (seconds since 1970), level, logger, message, request_id, and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if name := request_id.get():
            line["request_id"] = name
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(log_format: str = "text", level: str = "info", stream: IO[str] | None = None) -> None:
    """Send what Heddle and its server log to `stream` (standard error) in one of FORMATS. Replaces what was configured."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    for name in ("heddle", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())


def _plain(text: str) -> str:
    """A path may hold decoded line breaks and control characters: a log's lines are not a client's to write."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
