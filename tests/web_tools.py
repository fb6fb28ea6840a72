"""A server whose model says what a test wants, for the web page and the terminal chat; and servers in threads."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from heddle.runtime.server.page import page_routes

METRICS = """# TYPE heddle:num_requests_running gauge
heddle:num_requests_running{model_name="scripted"} 3.0
heddle:num_requests_waiting{model_name="scripted"} 2.0
heddle:kv_cache_usage_perc{model_name="scripted"} 0.25
heddle:generation_tokens_total{model_name="scripted"} %d
heddle:prompt_tokens_total{model_name="scripted"} 7.0
"""


@dataclasses.dataclass
class Script:
    """What the server says, and what it was asked."""

    text: str = "Hello."
    pieces: int = 4  # characters of a piece
    delay: float = 0.0  # seconds between pieces
    hold_after: int | None = None  # pieces after which it says nothing until the client leaves
    error: tuple[int, str] | None = None  # the status and message of all answers
    break_off: bool = False  # end without a reason
    metrics: bool = True
    bodies: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    keys: list[str | None] = dataclasses.field(default_factory=list)
    left: threading.Event = dataclasses.field(default_factory=threading.Event)  # a client went away early
    scrapes: int = 0


def scripted(script: Script) -> Starlette:
    """The application."""

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "scripted"}, {"id": "other"}]})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        script.scrapes += 1
        return PlainTextResponse(
            METRICS % (100 * script.scrapes) if script.metrics else "", 200 if script.metrics else 404
        )

    async def chat(request: Request) -> Response:
        script.bodies.append(await request.json())
        script.keys.append(request.headers.get("authorization"))
        if script.error:
            status, message = script.error
            return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status)
        return StreamingResponse(stream(), media_type="text/event-stream")

    async def stream() -> AsyncIterator[str]:
        pieces = [script.text[i : i + script.pieces] for i in range(0, len(script.text), script.pieces)]
        try:
            yield event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
            for i, piece in enumerate(pieces):
                if i == script.hold_after:
                    await asyncio.sleep(30)
                await asyncio.sleep(script.delay)
                yield event(choices=[{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        except asyncio.CancelledError:
            script.left.set()
            raise
        if script.break_off:
            return
        yield event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        usage = {"prompt_tokens": 9, "completion_tokens": len(pieces), "prompt_tokens_details": {"cached_tokens": 5}}
        yield event(choices=[], usage=usage)
        yield "data: [DONE]\n\n"

    routes = [Route("/v1/models", models), Route("/health", health), Route("/metrics", metrics)]
    return Starlette(routes=[*page_routes(), *routes, Route("/v1/chat/completions", chat, methods=["POST"])])


def event(**fields: Any) -> str:
    """A server-sent event of JSON."""
    return f"data: {json.dumps(fields)}\n\n"


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of `app`, which a thread serves on a free port of this machine."""
    config = uvicorn.Config(app, port=0, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def notify(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = notify  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert started.wait(20), "the server does not start"
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
