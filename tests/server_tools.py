"""A server in a thread, for clients in a test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from heddle import AsyncLLM
from heddle.runtime.server.app import bound, create_app, server_config
from heddle.runtime.server.service import Service
from heddle.runtime.server.settings import Settings

from .async_tools import wait_until

# Shows tools as Hermes' and Qwen's templates do, and else is tinydoc's own.
TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }} Write <tool_call>{...}</tool_call>.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Running:
    """A server that runs."""

    def __init__(self, url: str, app: FastAPI, model: AsyncLLM, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self.app, self.model, self.loop = url, app, model, loop
        self.service: Service = app.state.service

    def ask(self, path: str, body: Any = None, data: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, JSON (or text) and headers of the answer to a GET, or to a POST where there is a body."""
        if body is not None:
            data = json.dumps(body).encode()
        sent = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        request = urllib.request.Request(self.url + path, data, sent)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text, status, found = answer.read().decode(), answer.status, answer.headers
        except urllib.error.HTTPError as error:
            with error:
                text, status, found = error.read().decode(), error.code, error.headers
        with contextlib.suppress(ValueError):
            return status, json.loads(text), found
        return status, text, found

    def wait_idle(self) -> None:
        """Wait until nothing is open and nothing is in the engine."""
        lifecycle, engine = self.service.lifecycle, self.model._engine
        wait_until(lambda: not lifecycle.open and not engine.has_work, "something is still open")


@contextlib.contextmanager
def running(model: AsyncLLM, send_buffer: int | None = None, **settings: Any) -> Iterator[Running]:
    """A server for `model` on a free port of loopback. Afterwards nothing is open and no task is left."""
    chosen = Settings(**{"names": ("tinydoc", "other"), "port": 0, "ping_seconds": 5.0, **settings})
    app = create_app(model, chosen)
    listener = bound(chosen)
    if send_buffer is not None:
        import socket

        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # connections inherit it
    server = uvicorn.Server(server_config(app, chosen))
    loops: list[asyncio.AbstractEventLoop] = []
    left: list[asyncio.Task[Any]] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])
        left.extend(task for task in asyncio.all_tasks() if task is not asyncio.current_task())

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="server")
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), "the server does not start")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    here = Running(url, app, model, loops[0])
    try:
        yield here
        here.wait_idle()
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
    assert not thread.is_alive()
    assert not left, left
