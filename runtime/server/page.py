"""The web page at `/`: files of the folder web/, read once, with headers that let them reach nothing but this server."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "web"
PREFIX = "/web/"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy: nothing inline, nothing from elsewhere. What a model says cannot become a script."""


@dataclasses.dataclass(frozen=True)
class File:
    """One file of the page, as it is sent."""

    body: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> File:
        """The file at `path`; its kind is known by its ending, whatever the machine's own list of types says."""
        body = path.read_bytes()
        headers = {
            "content-type": TYPES[path.suffix],
            "etag": f'"{hashlib.sha256(body).hexdigest()[:16]}"',
            "cache-control": "no-cache",  # the browser asks whether it has changed: a new version shows at once
            "content-security-policy": POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        return cls(body, headers)

    async def answer(self, request: Request) -> Response:
        """The file, or 304 where the browser has it."""
        headers = dict(self.headers)
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers)


def page_routes() -> list[Route]:
    """GET and HEAD of `/` and of `/web/...`. They ask for no API key: the page itself has a field for it."""
    files = {path.name: File.read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
    routes = [Route(PREFIX + name, file.answer, include_in_schema=False) for name, file in files.items()]
    return [Route("/", files["index.html"].answer, include_in_schema=False), *routes]
