"""What OpenAPI says of answers, and answers in JSON."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from .json_text import encode
from .schema.base import ErrorBody

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is wrong, or comes at the wrong time."},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer."},
}


def answers(kind: Any) -> dict[int | str, dict[str, Any]]:
    """An answer in JSON."""
    return {200: {"model": kind, "description": "The answer."}}


def streaming(kind: Any) -> dict[int | str, dict[str, Any]]:
    """An answer in JSON, or as events where the body asks for a stream."""
    events = {
        "text/event-stream": {"schema": {"description": "Server-sent events; the data of each is JSON, or [DONE]."}}
    }
    return {200: {"model": kind, "content": events, "description": "The answer, or with `stream` its chunks."}}


def json_response(value: Any) -> Response:
    """An answer."""
    return Response(encode(value), media_type="application/json")
