"""Bodies of requests: read within their bounds of size and time, as strict JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from ..errors import RequestError
from . import json_text
from .errors import ServerError, as_server_error
from .settings import Settings

CLOSE = {"connection": "close"}
"""The rest of the body is not read: the connection cannot be used again."""


class BodyRequest(Request):
    """A request whose body is bounded."""

    async def body(self) -> bytes:
        """All of it. ServerError where it is too large or too slow."""
        if not hasattr(self, "_body"):
            settings: Settings = self.app.state.settings
            try:
                async with asyncio.timeout(settings.body_seconds):
                    self._body = await self._bounded(settings.max_body)
            except TimeoutError:
                why = f"the body did not come within {settings.body_seconds:g} seconds"
                raise ServerError(408, why, code="request_timeout", headers=CLOSE) from None
        return self._body

    async def json(self) -> Any:
        """The body as strict JSON (json_text.decode)."""
        try:
            data, self._body = await self.body(), b""  # a stream need not hold it
            return json_text.decode(data)
        except RequestError as error:
            raise as_server_error(error) from error

    async def _bounded(self, most: int) -> bytes:
        refusal = ServerError(413, f"the body is larger than {most} bytes", code="body_too_large", headers=CLOSE)
        said = self.headers.get("content-length", "")
        if said.isdigit() and int(said[:20]) > most:
            raise refusal
        parts, size = [], 0
        async for part in self.stream():
            size += len(part)
            if size > most:
                raise refusal
            parts.append(part)
        return b"".join(parts)


class BodyRoute(APIRoute):
    """A route whose bodies are read so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI, given our kind of request."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(BodyRequest(request.scope, request.receive))

        return bounded
