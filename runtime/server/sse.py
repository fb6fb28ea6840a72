"""Server-sent events: an answer that is sent as it comes, to clients that may read slowly, or go away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ..errors import HeddleError
from .errors import GoneError, ServerError, as_server_error
from .json_text import encode
from .settings import Settings

LOG = logging.getLogger("heddle.server")
DONE = "data: [DONE]\n\n"
PING = b": ping\n\n"
T = TypeVar("T")


class SlowReaderError(HeddleError):
    """A client reads its answer so slowly that too much of it is waiting."""


class Outbox:
    """Text on its way to a client: bytes that are not sent yet, at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._parts: list[bytes] = []
        self._ready = asyncio.Event()
        self._closed = False
        self.taken = 0

    def put(self, part: bytes) -> None:
        """Add a part. SlowReaderError where too much is waiting; one part alone may be of any size (an echo is)."""
        self._size += len(part)
        if self._size > self._limit and self._parts:
            raise SlowReaderError(f"{self._size} bytes of an answer were not read", f"allowed are {self._limit}")
        self._parts.append(part)
        self._ready.set()

    def close(self) -> None:
        """No more parts come."""
        self._closed = True
        self._ready.set()

    async def take(self) -> bytes:
        """All that is waiting, as soon as there is something; b"" at the end."""
        await self._ready.wait()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size = [], 0
        self.taken += 1
        if not self._closed:
            self._ready.clear()
        return data


class EventStream(Response):
    """Sends events as they come. What goes wrong after the first one is an event too, the last."""

    media_type = "text/event-stream"

    def __init__(
        self,
        first: asyncio.Task[str],
        rest: AsyncGenerator[str, None],
        watch: asyncio.Task[Message],
        settings: Settings,
    ) -> None:
        """`first` gives the first event of `rest`, `watch` ends when the client goes."""
        self.status_code, self.background = 200, None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._first, self._rest, self._watch, self._settings = first, rest, watch, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it, until the client goes or reads too slowly."""
        outbox = Outbox(self._settings.max_unsent)
        fill = asyncio.create_task(self._fill(outbox))
        flush = asyncio.create_task(self._flush(outbox, send))
        tasks: set[asyncio.Task[Any]] = {fill, flush}
        try:
            while tasks:
                done, tasks = await asyncio.wait({*tasks, self._watch}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {self._watch}:
                    task.result()
                tasks.discard(self._watch)
                if self._watch in done:
                    return
        except SlowReaderError as error:
            LOG.warning("%s", error.what)
        finally:
            await stopped(fill, flush, self._first, self._watch)
            await self._rest.aclose()

    async def _fill(self, outbox: Outbox) -> None:
        """Move events into the outbox."""
        try:
            outbox.put((await self._first).encode())
            async for event in self._rest:
                outbox.put(event.encode())
        except SlowReaderError:
            raise
        except Exception as error:
            if not isinstance(error, (HeddleError, ServerError)):
                LOG.exception("an answer failed")
            outbox.put(f"data: {encode(as_server_error(error).body)}\n\n{DONE}".encode())
        outbox.close()

    async def _flush(self, outbox: Outbox, send: Send) -> None:
        """Send what is in the outbox, and a comment now and then where nothing is."""
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        async with pinging(outbox, self._settings.ping_seconds):
            while data := await outbox.take():
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextlib.asynccontextmanager
async def pinging(outbox: Outbox, seconds: float) -> AsyncGenerator[None, None]:
    """Put a comment into the outbox after so many seconds in which nothing was taken from it."""

    async def ping() -> None:
        seen = outbox.taken
        while True:
            await asyncio.sleep(seconds)
            if outbox.taken == seen:
                outbox.put(PING)
            seen = outbox.taken

    task = asyncio.create_task(ping())
    try:
        yield
    finally:
        await stopped(task)


async def respond(request: Request, events: AsyncGenerator[str, None], settings: Settings) -> Response:
    """A stream of `events`. An error before the first one is raised here, so that it can have a status of its own, unless the
    first one takes long. GoneError where the client goes before it."""
    first: asyncio.Task[str] = asyncio.ensure_future(anext(events))
    watch = asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait({first, watch}, timeout=settings.ping_seconds, return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            first.result()
        elif watch.done():
            raise GoneError
    except BaseException:
        await stopped(first, watch)
        await events.aclose()
        raise
    return EventStream(first, events, watch, settings)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes: GoneError."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        await stopped(task, watch)


async def gone(request: Request) -> Message:
    """Wait until the client goes. The body must have been read."""
    while (message := await request.receive())["type"] != "http.disconnect":
        pass
    return message


async def stopped(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their ends."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
