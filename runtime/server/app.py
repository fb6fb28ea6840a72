"""The server put together: endpoints, middleware, and the process that runs them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from ... import __version__
from ..errors import HeddleError
from . import chat, completions, embeddings, errors, lifecycle, logs, others, responses
from .model import Model
from .page import page_routes
from .security import OPEN, Keys
from .service import Service
from .settings import Settings

UNREAD_SECONDS = 60
"""Time for a client's machine to take in what was sent to it, before its connection is cut (Linux: TCP_USER_TIMEOUT)."""


def create_app(model: Model, settings: Settings) -> FastAPI:
    """The ASGI application that serves `model`. Shutting the model down is the caller's."""
    service = Service(model, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="Heddle", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False
    )
    app.state.service, app.state.settings = service, settings
    for module in (chat, completions, responses, embeddings, others):
        app.include_router(module.router)
    app.router.routes += page_routes()
    errors.install(app)
    # The last one is the outermost.
    app.add_middleware(lifecycle.Gate, lifecycle=service.lifecycle)
    if settings.api_keys:
        app.add_middleware(Keys, keys=settings.api_keys)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("authorization", "content-type", "x-request-id"),
            expose_headers=("x-request-id", "retry-after"),
        )
    app.add_middleware(logs.RequestLog)
    app.openapi = lambda: _openapi(app, bool(settings.api_keys))  # type: ignore[method-assign]
    return app


def serve(
    model: Model,
    settings: Settings,
    ready: Callable[[str], None] = lambda url: None,
    listener: socket.socket | None = None,
) -> None:
    """Serve `model` until the process is told to end; returns when all is drained. `ready` is told where it listens.

    Shuts the model down. `listener` is what `bound` gave before; without one, HeddleError where the address cannot be had.
    """
    logs.configure(settings.log_format)
    app = create_app(model, settings)
    with contextlib.closing(listener or bound(settings)) as own:
        asyncio.run(_run(app, model, settings, own, ready))


def bound(settings: Settings) -> socket.socket:
    """A socket for the address, which refuses connections until a server listens on it.

    HeddleError where the address is taken or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named as TCP, for asyncio sends small parts at once only on such: else each waits 40 ms for the acknowledgement of the last.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit these: one whose other end is gone, or never reads, does not stay for ever.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise HeddleError(
            f"cannot listen on {settings.host} port {settings.port}", str(error), "give another --host or --port"
        ) from error
    return listener


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        access_log=False,  # logs.RequestLog does that
        log_config=None,
        server_header=False,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        timeout_graceful_shutdown=lifecycle.GOODBYE_SECONDS,
    )


async def _run(
    app: FastAPI, model: Model, settings: Settings, listener: socket.socket, ready: Callable[[str], None]
) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    service: Service = app.state.service

    def tell() -> None:
        loop.call_soon_threadsafe(told.set)

    server = lifecycle.Server(server_config(app, settings), tell)

    async def end() -> None:
        await told.wait()
        await lifecycle.drain(service.lifecycle, model, settings.drain_seconds)
        server.should_exit = True

    async def start() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        ready(f"{'https' if settings.certificate else 'http'}://{host}:{listener.getsockname()[1]}")

    tasks = [asyncio.create_task(end()), asyncio.create_task(start())]
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(model.shutdown)


def _openapi(app: FastAPI, keys: bool) -> dict[str, Any]:
    """The description of all endpoints; FastAPI's, with the keys."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        if keys:
            found = copy.deepcopy(found)
            found.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, item in found["paths"].items():
                for operation in item.values():
                    if path not in OPEN:
                        operation["security"] = [{"key": []}]
        app.openapi_schema = found
    return app.openapi_schema
