"""How a server is to behave, apart from what its model does."""

from __future__ import annotations

import dataclasses

from ..errors import RequestError

MIB = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the server.

    names: what requests may call the model; the first one is what answers call it.
    host, port: where to listen; port 0 takes a free one. certificate, key: PEM files, for HTTPS.
    api_keys: any of them is asked for (as `Authorization: Bearer KEY`); none: everybody may ask.
    cors_origins: web pages of these origins may ask; "*" is every page.
    tools: the format in which the model writes calls of tools; "auto" finds it in the chat template, "none" is none.
    max_body: bytes of a request's body. max_requests: requests that are open at a time, streams included.
    max_prompts: prompts (or inputs) of one request. max_unsent: bytes of an answer that wait for a client that reads slowly.
    body_seconds: time for a request's body to come. drain_seconds: time for open requests to finish after SIGTERM.
    ping_seconds: how often a stream that has nothing to say shows that it lives.
    log_format: "text" or "json".
    """

    names: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    certificate: str | None = None
    key: str | None = None
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    tools: str = "auto"
    max_body: int = 32 * MIB
    max_requests: int = 1024
    max_prompts: int = 1024
    max_unsent: int = MIB
    body_seconds: float = 60.0
    drain_seconds: float = 30.0
    ping_seconds: float = 15.0
    log_format: str = "text"

    def __post_init__(self) -> None:
        """RequestError for what cannot be."""
        if not self.names or not all(self.names):
            raise RequestError("a served model needs a name", fix="give one, or several")
        if any(not key.strip() for key in self.api_keys):
            raise RequestError("an API key is empty", "everybody would know it", "give keys that cannot be guessed")
        if (self.certificate is None) != (self.key is None):
            raise RequestError("HTTPS needs a certificate and its key", fix="give both files, or none")
        for name in ("max_body", "max_requests", "max_prompts", "max_unsent", "body_seconds", "ping_seconds"):
            if getattr(self, name) <= 0:
                raise RequestError(f"{name} is {getattr(self, name)!r}; allowed is more than 0")
        if self.drain_seconds < 0:
            raise RequestError(f"drain_seconds is {self.drain_seconds!r}; allowed is 0 or more")
