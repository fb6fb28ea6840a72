"""When a server takes work: it counts what is open, and drains before it ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import RETRY, ServerError, as_server_error, unavailable
from .model import Model

LOG = logging.getLogger("heddle.server")
GOODBYE_SECONDS = 5
"""Time for aborted requests to say so, and for connections to close, before they are cut."""


class Lifecycle:
    """Requests that are open, of at most so many, and whether new ones are taken."""

    def __init__(self, most: int) -> None:
        self.most, self.open = most, 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def check(self) -> None:
        """ServerError where no request is taken now."""
        if self.draining:
            raise unavailable("the server is shutting down and takes no requests any more", "draining")
        if self.open >= self.most:
            raise ServerError(
                429,
                f"{self.open} requests are open, which is all that may be",
                "rate_limit_error",
                code="too_many_requests",
                headers=RETRY,
            )

    def enter(self) -> None:
        """A request begins."""
        self.open += 1
        self._idle.clear()

    def leave(self) -> None:
        """A request is over."""
        self.open -= 1
        if not self.open:
            self._idle.set()

    async def finished(self, seconds: float) -> bool:
        """Wait until nothing is open, `seconds` at most; whether it is so."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True


class Gate:
    """ASGI middleware: requests with a body are work, counted and refused by a `Lifecycle`. An error that nobody foresaw is
    logged and answered here, inside of the middleware that names requests."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app, self._lifecycle = app, lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        work = scope["method"] == "POST"
        try:
            if work:
                self._lifecycle.check()
                self._lifecycle.enter()
        except ServerError as error:
            await error.response(scope, receive, send)
            return
        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            LOG.exception("%s %s failed", scope["method"], scope["path"])
            if begun:
                raise
            await as_server_error(error).response(scope, receive, send)
        finally:
            if work:
                self._lifecycle.leave()


class Server(uvicorn.Server):
    """Drains at the first SIGTERM or SIGINT and ends at the second."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain, self._signals = drain, 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. The exit is a regular one: a server that is told to end has done all it should."""
        self._signals += 1
        if self._signals == 1:
            LOG.info("%s: draining", signal.Signals(sig).name)
            self._drain()
        else:
            self.should_exit = self.force_exit = True


async def drain(lifecycle: Lifecycle, model: Model, seconds: float) -> None:
    """Take no new requests; give those that are open `seconds`, then abort them."""
    lifecycle.draining = True
    if not await lifecycle.finished(seconds):
        LOG.warning("%d requests are not finished after %g seconds: aborting them", lifecycle.open, seconds)
    await asyncio.to_thread(model.shutdown)
    await lifecycle.finished(GOODBYE_SECONDS)
