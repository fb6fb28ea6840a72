"""`heddle bench serve` against servers that answer at known times, and against some that answer badly."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest
from aiohttp import web

from heddle.cli.bench import command
from heddle.runtime.errors import HeddleError

FIRST, BETWEEN = 0.06, 0.02
"""Seconds to the first token and between tokens."""


class Fake:
    """A server in a thread. `bodies` and `headers` are what it was sent."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.way = "good"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [] if self.way == "empty" else [{"id": "fake-model"}]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if self.way == "full":
            return web.json_response({"error": {"message": "too many requests"}}, status=429)
        if self.way == "plain":
            return web.json_response({"choices": [{"text": "all at once"}]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        chat = "messages" in body
        count = body["max_completion_tokens" if chat else "max_tokens"]
        if chat:
            await self._say(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        await asyncio.sleep(FIRST)
        for i in range(count):
            if i:
                await asyncio.sleep(BETWEEN)
            await self._say(response, {"choices": [{"delta": {"content": "é"}} if chat else {"text": "é"}]})
            if i and self.way == "breaks":
                await self._say(response, {"error": {"message": "the engine is gone"}})
                return response
            if i and self.way == "cut":
                return response
        await self._say(response, {"choices": [{"delta": {}, "finish_reason": "length"}]})
        if self.way != "no usage":
            usage = {"prompt_tokens": 3, "completion_tokens": 2 * count}
            await self._say(response, {"choices": [], "usage": usage})
        await response.write(b": a comment\r\n\r\ndata: [DONE]\r\n\r\n")
        return response

    async def _say(self, response: web.StreamResponse, chunk: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")


@pytest.fixture(scope="module")
def server() -> Iterator[Fake]:
    made = Fake()
    yield made
    made.close()


@pytest.fixture
def fake(server: Fake) -> Fake:
    server.way = "good"
    server.bodies.clear()
    server.headers.clear()
    return server


def bench(fake: Fake, *arguments: str) -> Any:
    url = f"http://127.0.0.1:{fake.port}/v1"
    sizes = ("--input-len", "4", "--output-len", "5")
    return click.testing.CliRunner().invoke(
        command, ["serve", "--base-url", url, *sizes, *arguments], catch_exceptions=False, standalone_mode=False
    )


def rows(fake: Fake, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bench(fake, "--json", *arguments).stdout)["results"]
    return found


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_times_are_those_of_the_server(fake: Fake, endpoint: str) -> None:
    (row,) = rows(fake, "--endpoint", endpoint, "--num-prompts", "6", "--concurrency", "3")
    assert (row["completed"], row["failed"], row["model"], row["max_concurrency"]) == (6, 0, "fake-model", 3)
    assert (row["total_input_tokens"], row["total_output_tokens"]) == (18, 60)
    whole = FIRST + 4 * BETWEEN
    late = 0.05  # of a busy machine, in the median
    for name, least in (("ttft", FIRST), ("itl", BETWEEN), ("tpot", 4 * BETWEEN / 9), ("e2el", whole)):
        assert least * 990 <= row[f"median_{name}_ms"] <= (least + late) * 1e3, name
    assert 2 * whole <= row["duration"]
    assert row["concurrency"] <= 3.001


def test_what_is_sent(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    talk = [{"role": "user", "content": "hi"}]
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"messages": talk, "max_tokens": 2}))
    arguments = ("--endpoint", "chat", "--dataset-path", str(file), "--num-prompts", "2", "--ignore-eos")
    more = ("--extra-body", '{"top_k": 3, "temperature": 1}', "--header", "X-A: b", "--model", "mine")
    rows(fake, *arguments, *more, "--request-rate", "inf", "--num-warmups", "0")
    assert len(fake.bodies) == 2
    expected = {"model": "mine", "stream": True, "stream_options": {"include_usage": True}, "messages": talk}
    expected |= {"max_completion_tokens": 5, "ignore_eos": True, "top_k": 3, "temperature": 1}
    assert fake.bodies[0] == expected
    assert fake.headers[0]["Authorization"] == "Bearer key"
    assert fake.headers[0]["X-A"] == "b"


def test_several_loads_with_tables_and_a_plot(fake: Fake, tmp_path: Path) -> None:
    page, kept = tmp_path / "plot.html", tmp_path / "kept.json"
    loads = ("--request-rate", "20", "--request-rate", "40", "--num-prompts", "4", "--goodput", "ttft:1")
    done = bench(fake, *loads, "--plot", str(page), "-o", str(kept))
    for said in ("fake-model at http://127.0.0.1", "20 req/s", "40 req/s", "TTFT p99", "good req/s"):
        assert said in done.stdout
    assert page.read_text().count("<svg") == 4
    found = json.loads(kept.read_text())
    assert [row["request_rate"] for row in found["results"]] == [20, 40]
    assert all(row["request_goodput"] == 0 for row in found["results"])
    assert found["about"]["command"].startswith("heddle")


def test_tokens_are_counted_where_the_server_does_not(fake: Fake) -> None:
    fake.way = "no usage"
    (row,) = rows(fake, "--num-prompts", "1")
    assert row["total_output_tokens"] == 5
    assert "no usage" in row["counted"]
    assert row["request_rate"] is None


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("full", "429: .*too many requests"),
        ("plain", "no stream of events but 'application/json"),
        ("breaks", "the engine is gone"),
        ("cut", "ended without"),
    ],
)
def test_failures_are_counted_and_told(fake: Fake, way: str, message: str) -> None:
    fake.way = way
    with pytest.raises(HeddleError, match=message):
        bench(fake, "--num-prompts", "2")
    done = bench(fake, "--num-prompts", "2", "--num-warmups", "0")
    assert "2 failed: ValueError: " in done.stderr


def test_servers_that_are_not_there(fake: Fake) -> None:
    fake.way = "empty"
    with pytest.raises(HeddleError, match="has no models"):
        bench(fake)
    with pytest.raises(HeddleError, match="does not answer with a list of models"):
        click.testing.CliRunner().invoke(
            command, ["serve", "--base-url", "http://127.0.0.1:1"], catch_exceptions=False, standalone_mode=False
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--request-rate", "0"),
        ("--extra-body", "[]"),
        ("--extra-body", "{"),
        ("--header", "x"),
        ("--dataset", "text"),
        ("--dataset", "random", "--dataset-path", "x.json"),
    ],
)
def test_wrong_usage(fake: Fake, arguments: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        bench(fake, *arguments)
    assert not fake.bodies
