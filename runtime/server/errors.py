"""Errors as answers: OpenAI's objects with a status, for whatever goes wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..errors import (
    AbortedError,
    ContextLengthError,
    DeadlineError,
    EngineDeadError,
    HeddleError,
    QueueFullError,
    RequestError,
)
from ..structured.grammar import GrammarError
from ..tokenizer import TokenizerError
from .json_text import encode
from .logs import CLOSED
from .schema.base import ErrorBody

RETRY = {"retry-after": "1"}
"""Of answers that say: not now."""

_PARAM = re.compile(r"(?:SamplingParams|Structured)\.(\w+)")
_UNKNOWN = re.compile(r"has no option '(\w+)'")
_NAMES = {400: "invalid_request_error", 401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed"}


class ServerError(HTTPException):
    """An answer with an error status, to be raised anywhere while a request is handled."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`kind` is the error's type, `param` the field that it is about, `code` a name for programs."""
        super().__init__(status, message, headers)
        self.message, self.kind, self.param, self.code = message, kind, param, code

    @property
    def body(self) -> ErrorBody:
        """The error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> Response:
        """The answer."""
        return Response(encode(self.body), self.status_code, self.headers, "application/json")


class GoneError(Exception):
    """The client is not there any more; nobody reads an answer."""


def unavailable(why: str, code: str) -> ServerError:
    """503: the server takes no work now."""
    return ServerError(503, why, "service_unavailable", code=code, headers=RETRY)


def as_server_error(error: Exception) -> ServerError:
    """The answer to a request that ended with `error`."""
    if isinstance(error, ServerError):
        return error
    if isinstance(error, QueueFullError):
        return ServerError(429, _message(error), "rate_limit_error", code="queue_full", headers=RETRY)
    if isinstance(error, ContextLengthError):
        return ServerError(400, _message(error), code="context_length_exceeded")
    if isinstance(error, (RequestError, TokenizerError)):
        return ServerError(400, _message(error), param=_param(error), code="invalid_value")
    if isinstance(error, GrammarError):  # it was too much, or cannot be spelled by the model's tokens
        return ServerError(400, _message(error), code="invalid_grammar")
    if isinstance(error, DeadlineError):
        return ServerError(504, _message(error), "timeout_error", code="deadline_exceeded")
    if isinstance(error, (AbortedError, EngineDeadError)):
        return unavailable(_message(error), "aborted" if isinstance(error, AbortedError) else "engine_dead")
    if isinstance(error, HeddleError):
        return ServerError(500, _message(error), "server_error")
    return ServerError(500, "an error that nobody foresaw; the server's log has more", "server_error")


def invalid(errors: Sequence[Any]) -> ServerError:
    """400 for a body of another shape; `errors` are pydantic's, and the first field's are told."""
    place = errors[0]["loc"][1:]  # behind "body"
    same = [error for error in errors if error["loc"][1:2] == place[:1]]
    for error in same:
        if isinstance(cause := error.get("ctx", {}).get("error"), RequestError):
            known, unknown = as_server_error(cause), _UNKNOWN.search(cause.what)
            inner = error["loc"][1:]
            path = _path((*inner, unknown[1]) if unknown else inner)
            return ServerError(400, known.message, param=path or None, code="unknown_field" if unknown else known.code)
    if not place:
        missing = errors[0]["type"] == "missing"
        why = (
            "there is no body" if missing else "the body is no JSON object, or its content-type is not application/json"
        )
        return ServerError(400, why, code="missing" if missing else "invalid_type")
    said = "; or ".join(list(dict.fromkeys(error["msg"] for error in same))[:4])
    return ServerError(400, f"{_path(place)}: {said}", param=_path(place), code=_code(errors[0]))


def install(app: FastAPI) -> None:
    """Answer errors of the application so."""

    async def own(_: Request, error: Exception) -> Response:
        return as_server_error(error).response

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLOSED)

    async def shape(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors()).response

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = {404: f"there is no {request.url.path} here", 405: f"{request.method} is not for {request.url.path}"}
        message = text.get(error.status_code, str(error.detail))
        code = _NAMES.get(error.status_code)
        return ServerError(error.status_code, message, code=code, headers=dict(error.headers or {})).response

    app.add_exception_handler(ServerError, own)
    app.add_exception_handler(GoneError, gone)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(HeddleError, own)
    app.add_exception_handler(RequestValidationError, shape)
    app.add_exception_handler(HTTPException, http)


def _message(error: HeddleError) -> str:
    """What, why and how to fix it, in one line."""
    return "; ".join(_PARAM.sub(r"\1", part) for part in (error.what, error.why, error.fix) if part)


def _param(error: HeddleError) -> str | None:
    found = _PARAM.match(error.what)
    return found[1] if found else None


def _path(place: Sequence[str | int]) -> str:
    """`messages[0].content`: the names and numbers of a place, without the kinds of a union that pydantic adds."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[a-z_]+[a-z0-9_]*", part) and part not in ("str", "int", "float", "bool"):
            text += f".{part}" if text else part
    return text


def _code(error: Any) -> str:
    kind = str(error["type"])
    return "missing" if kind == "missing" else "invalid_type" if kind.endswith("_type") else "invalid_value"
