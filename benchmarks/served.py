"""A server in a thread of this process, so that a benchmark can look at the engine and the event loop behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn

from heddle import AsyncLLM
from heddle.runtime.server.app import bound, create_app, server_config
from heddle.runtime.server.settings import Settings


class Served(contextlib.AbstractContextManager["Served"]):
    """Serves a model on a free port of loopback. Ends without draining; the model stays open."""

    def __init__(self, model: AsyncLLM, **settings: Any) -> None:
        made = Settings(**{"names": ("bench",), "port": 0, "max_requests": 4096, **settings})
        self._socket = bound(made)
        self._server = uvicorn.Server(server_config(create_app(model, made), made))
        self.loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="server")
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server did not start")
            threading.Event().wait(0.01)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._socket])

    @property
    def tasks(self) -> int:
        """Tasks of the event loop."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1  # but this one

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result()

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


def bench(url: str, *arguments: str) -> list[dict[str, Any]]:
    """The rows of `heddle bench serve`, in a process of its own."""
    command = [sys.executable, "-m", "heddle.cli", "bench", "serve", "--base-url", url, "--json", *arguments]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    rows: list[dict[str, Any]] = json.loads(found)["results"]
    return rows


def resident_bytes(process: int | str = "self") -> int:
    """Memory of a process that is its own, without files that it maps."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("Linux tells no RssAnon")
