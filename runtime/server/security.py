"""Who may ask: API keys, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ServerError

OPEN = ("/", "/health", "/version")
OPEN_FOLDER = "/web/"
"""What everybody may see: that the server is there, and the page, which has a field for the key."""


class Keys:
    """ASGI middleware: asks for one of `keys` as a bearer token."""

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        self._app = app
        self._keys = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] == "http" and not self._may(scope):
            error = ServerError(
                401,
                "no API key, or a wrong one; send it as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
            await error.response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in OPEN or path.startswith(OPEN_FOLDER):
            return True
        kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        # Digests have one length and all keys are compared: the time tells nothing.
        found = [hmac.compare_digest(_digest(key.strip()), known) for known in self._keys]
        return kind.lower() == "bearer" and any(found)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
