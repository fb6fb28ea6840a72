"""What a server refuses, and whom it lets go: keys, sizes, queues, slow readers, clients that vanish, and its own end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heddle import AsyncLLM, HeddleError
from heddle.runtime.errors import RequestError
from heddle.runtime.server.app import bound
from heddle.runtime.server.lifecycle import drain
from heddle.runtime.server.settings import Settings

from .async_tools import check_idle, wait_until
from .llm_tools import null_artifact
from .server_tools import Running, running

LONG = {"prompt": "x", "max_tokens": 200, "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsyncLLM]:
    """A model that computes nothing. Its context has 256 tokens; three requests run and two wait."""
    with pytest.MonkeyPatch.context() as patch:
        found = AsyncLLM(null_artifact(tmp_path_factory.mktemp("null"), patch), max_waiting=2)
        yield found
        found.shutdown(drain=True)
        check_idle(found)


@pytest.fixture(scope="module")
def server(model: AsyncLLM) -> Iterator[Running]:
    with running(model, max_body=100_000, body_seconds=0.5, max_prompts=8) as found:
        yield found


@pytest.fixture
def slowly(model: AsyncLLM) -> Iterator[None]:
    """Steps of 10 ms."""
    model._engine.runner.delay = 0.01
    yield
    model._engine.runner.delay = 0.0


def raw(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def post(body: Any, path: str = "/v1/completions", length: int | None = None) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length or len(data)}"
    return f"{head}\r\n\r\n".encode() + data


# Bodies


def nested(depth: int) -> bytes:
    return b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "no JSON: Expecting property name"),
        (b'{"prompt": NaN}', "NaN, which is no JSON"),
        (b'{"prompt": "x", "temperature": 1e999}', "1e999, which is out of range"),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", "number that is too long"),
        (b'{"prompt": "\xff"}', "not UTF-8: byte 12"),
        (b'{"prompt": "\\ud800"}', "half of a surrogate pair"),
        (b'{"prompt": "x", "n": 1, "n": 2}', "two values of 'n'"),
        (nested(65), "nested too deeply"),
        (nested(60_000 // 2), "nested too deeply"),
        (b"[]", "no JSON object"),
        (b"", "no body"),
        (b'{"prompt": {}}', "prompt: allowed is a text"),
        (b'{"prompt": []}', "prompt is empty"),
        (b'{"prompt": ["a", 3]}', r"prompt\[1\]: Input should be a valid string"),
        (b'{"prompt": [4, "a"]}', r"prompt\[1\]: Input should be a valid integer"),
        (b'{"prompt": ["a", "b", "a", "b", "a", "b", "a", "b", "a"]}', "has 9 prompts; allowed are 8"),
        (b'{"prompt": "x", "max_tokens": 1' + b"0" * 30 + b"}", "max_tokens"),
        (b'{"prompt": "x", "max_tokens": 0}', "only echo"),
        (b'{"prompt": "x", "stream_options": {"usage": true}}', "no option 'usage'"),
        (b'{"prompt": "x", "echo": true, "logprobs": 1, "stream": true}', "does not stream"),
    ],
)
def test_bodies_that_are_refused(server: Running, data: bytes, message: str) -> None:
    status, answer, _ = server.ask("/v1/completions", data=data)
    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert re.search(message, answer["error"]["message"])


def test_what_looks_odd_and_is_fine(server: Running) -> None:
    odd = b'{"prompt": "\\ud83d\\ude00 [[[[[[ \\u0000", "max_tokens": 3.0, "n": null, "user": "me", "store": true}'
    assert server.ask("/v1/completions", data=odd)[0] == 200
    several = {"prompt": [[5]] * 2, "n": 3, "max_tokens": 2}
    choices = server.ask("/v1/completions", several)[1]["choices"]
    assert [choice["index"] for choice in choices] == list(range(6))


def test_sizes_and_times(server: Running) -> None:
    for sent in (post(b"x" * 200_000), post(b"x" * 200_000, length=10**30)):
        with raw(server) as client, contextlib.suppress(ConnectionError):
            client.sendall(sent)
            answer = client.recv(4096)
            assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
    chunked = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    with raw(server) as client:
        client.sendall(chunked + b"Content-Type: application/json\r\n\r\n")
        client.sendall((b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 4)
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
    with raw(server) as client:
        client.sendall(post({"prompt": "x"}, length=500))  # and nothing more
        assert client.recv(4096).startswith(b"HTTP/1.1 408")
    status, answer, _ = server.ask("/v1/completions", {"prompt": "word " * 15_000})
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert "no token stands for more than" in answer["error"]["message"], "it was tokenized"


def test_paths_and_methods(server: Running) -> None:
    for path, body, status, code in (
        ("/v2", None, 404, "not_found"),
        ("/v1/completions", None, 405, "method_not_allowed"),
        ("/v1/models", {}, 405, "method_not_allowed"),
        ("/v1/models/gpt", None, 404, "model_not_found"),
    ):
        found = server.ask(path, body)
        assert (found[0], found[1]["error"]["code"]) == (status, code)
    assert server.ask("/health")[:2] == (200, {"status": "ok"})
    assert set(server.ask("/version")[1]) == {"version"}
    assert "heddle:num_requests_running" in server.ask("/metrics")[1]
    assert server.ask("/v1/models", x_request_id="mine")[2]["x-request-id"] == "mine"
    ids = server.ask("/tokenize", {"prompt": "A page"})[1]
    assert ids["count"] == len(ids["tokens"])
    assert server.ask("/detokenize", {"tokens": ids["tokens"]})[1] == {"prompt": "A page"}
    talk = {"messages": [{"role": "user", "content": "Hi"}], "return_token_strs": True}
    assert "".join(server.ask("/tokenize", talk)[1]["token_strs"]).endswith("assistant\n")
    assert server.ask("/tokenize", {})[0] == 400


def test_openapi_describes_answers_and_errors(server: Running) -> None:
    found = server.ask("/openapi.json")[1]
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"):
        answers = found["paths"][path]["post"]["responses"]
        assert set(answers) == {"200", "4XX", "5XX"}
        assert "$ref" in answers["4XX"]["content"]["application/json"]["schema"]
        assert "$ref" in answers["200"]["content"]["application/json"]["schema"]
    assert "text/event-stream" in found["paths"]["/v1/completions"]["post"]["responses"]["200"]["content"]


# Keys and pages


def test_keys_and_origins(model: AsyncLLM) -> None:
    with running(model, api_keys=("secret", "other"), cors_origins=("https://a.example",)) as server:
        for key in ("secret", "other"):
            assert server.ask("/v1/models", authorization=f"Bearer {key}")[0] == 200
        for headers in ({}, {"authorization": "Bearer secre"}, {"authorization": "Basic secret"}, {"x": "Bearer"}):
            status, answer, found = server.ask("/v1/completions", {"prompt": "x"}, **headers)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
            assert found["www-authenticate"] == "Bearer"
        assert server.ask("/metrics")[0] == server.ask("/openapi.json")[0] == server.ask("/tokenize", {})[0] == 401
        assert server.ask("/health")[0] == server.ask("/version")[0] == server.ask("/")[0] == 200
        assert (
            server.ask("/v1/models", origin="https://a.example", authorization="Bearer other")[2][
                "access-control-allow-origin"
            ]
            == "https://a.example"
        )
        assert "access-control-allow-origin" not in server.ask("/health", origin="https://b.example")[2]


def test_no_page_may_ask_by_default(server: Running) -> None:
    assert "access-control-allow-origin" not in server.ask("/health", origin="https://a.example")[2]
    assert server.ask("/v1/completions", {"prompt": "x"}, content_type="text/plain")[0] == 400, "pages may send that"


# Queues, and clients that go


@pytest.mark.usefixtures("slowly")
def test_full_queues(server: Running, model: AsyncLLM) -> None:
    found: list[Any] = []

    def ask(stream: bool) -> None:
        found.append(server.ask("/v1/completions", {**LONG, "max_tokens": 60, "stream": stream}))

    threads = [threading.Thread(target=ask, args=(i % 2 == 0,)) for i in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [(answer["error"], headers) for status, answer, headers in found if status == 429]
    assert len(refused) >= 2
    assert sum(status == 200 for status, _, _ in found) == 9 - len(refused) >= 3
    assert all(error["code"] == "queue_full" and headers["retry-after"] for error, headers in refused)


@pytest.mark.usefixtures("slowly")
def test_requests_are_bounded(model: AsyncLLM) -> None:
    with running(model, max_requests=1) as server, raw(server) as client:
        client.sendall(post({**LONG, "stream": True}))
        wait_until(lambda: model.metrics.running, "it does not run")
        status, answer, headers = server.ask("/v1/completions", {"prompt": "x"})
        assert (status, answer["error"]["code"], headers["retry-after"]) == (429, "too_many_requests", "1")
        assert server.ask("/health")[0] == 200


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_its_request(server: Running, model: AsyncLLM, stream: bool) -> None:
    before = model.metrics.decode_tokens
    with raw(server) as client:
        client.sendall(post({**LONG, "n": 2, "stream": stream}))
        wait_until(lambda: model.metrics.running == 2, "it does not run")
    server.wait_idle()
    assert model.metrics.decode_tokens - before < 300, "it went on to its end"


def test_a_slow_reader_slows_nobody_and_is_let_go(model: AsyncLLM) -> None:
    body = {**LONG, "n": 3, "logprobs": 20, "stream": True}
    with running(model, send_buffer=4096, max_unsent=100_000) as server:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with slow:
            slow.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            slow.sendall(post(body))
            status, answer, _ = server.ask("/v1/completions", body)
            assert (status, answer.count('"finish_reason":"length"')) == (200, 3)
            server.wait_idle()  # although the slow one has read nothing yet
            slow.settimeout(20)
            text = b""
            with contextlib.suppress(ConnectionError):
                while data := slow.recv(1 << 16):
                    text += data
        assert b"[DONE]" not in text
        assert 'finished_reason="abort",model_name="tinydoc"} 1.0' in server.ask("/metrics")[1]


@pytest.mark.usefixtures("slowly")
def test_a_stream_that_has_nothing_to_say_shows_that_it_lives(model: AsyncLLM) -> None:
    """And an error that comes late is an event."""
    with running(model, ping_seconds=0.1) as server:
        with raw(server) as client:
            model._engine.runner.delay = 0.5
            client.sendall(post({"prompt": "x", "max_tokens": 1, "stream": True}))
            text = b""
            while b"[DONE]" not in text:
                text += client.recv(4096)
        assert b": ping\n\n" in text.partition(b"data: ")[0]
        with raw(server) as client:
            model._engine.runner.fail_next = RuntimeError("broken")
            client.sendall(post({"prompt": "y", "max_tokens": 1, "stream": True}))
            text = b""
            while b"[DONE]" not in text:
                text += client.recv(4096)
        assert b'data: {"error":' in text
        assert b"broken" not in text, "what nobody foresaw is for the log"


def test_an_error_of_the_engine_is_a_500_and_no_more(server: Running, model: AsyncLLM) -> None:
    model._engine.runner.fail_next = RuntimeError("broken")
    status, answer, _ = server.ask("/v1/completions", {"prompt": "x"})
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert server.ask("/v1/completions", {"prompt": "x"})[0] == 200


# Ends


def test_draining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is open is finished, or aborted when its time is over; new requests are told to come back."""
    import asyncio

    model = AsyncLLM(null_artifact(tmp_path, monkeypatch))
    model._engine.runner.delay = 0.02
    with running(model) as server, raw(server) as client, raw(server) as endless:
        client.sendall(post({**LONG, "max_tokens": 10, "stream": True}))
        endless.sendall(post({**LONG, "stream": True}))
        wait_until(lambda: model.metrics.running == 2, "they do not run")
        end = asyncio.run_coroutine_threadsafe(drain(server.service.lifecycle, model, 1.0), server.loop)
        wait_until(lambda: server.ask("/health")[0] == 503, "it is not draining")
        assert server.ask("/health")[1] == {"status": "draining"}
        status, answer, headers = server.ask("/v1/completions", {"prompt": "x"})
        assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "draining", "1")
        end.result(20)
        texts = []
        for one in (client, endless):
            texts.append(b"")
            while b"[DONE]" not in texts[-1]:
                texts[-1] += one.recv(1 << 16)
        assert b'"finish_reason":"length"' in texts[0]
        assert b'"code":"aborted"' in texts[1]
        assert model.failure is not None


def test_a_dead_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AsyncLLM(null_artifact(tmp_path, monkeypatch))
    with running(model) as server:

        def die() -> None:
            raise SystemExit("dead")

        monkeypatch.setattr(model._engine, "step", die)
        status, answer, headers = server.ask("/v1/completions", {"prompt": "x"})
        assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "engine_dead", "1")
        assert server.ask("/health")[:2] == (503, {"status": "dead"})
        monkeypatch.undo()


def test_sigterm_under_load(tinydoc: Path) -> None:
    """`heddle serve` finishes what it has begun, and ends with success."""
    command = [sys.executable, "-W", "error", "-m", "heddle.cli", "serve", str(tinydoc), "--port", "0", "--json"]
    command += ["--threads", "2", "--drain-seconds", "20", "--served-model-name", "m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = json.loads(process.stdout.readline())
        assert (told["models"], told["pid"]) == (["m"], process.pid)
        port, found = int(told["url"].rpartition(":")[2]), list[bytes]()
        begun = threading.Barrier(9)

        def ask(seed: int) -> None:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(
                    post({"prompt": "The", "max_tokens": 150, "seed": seed, "stream": True, "ignore_eos": True})
                )
                text = client.recv(1 << 16)
                begun.wait()
                while data := client.recv(1 << 16):
                    text += data
                found.append(text)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        begun.wait()
        os.kill(process.pid, signal.SIGTERM)
        for thread in threads:
            thread.join()
        errors = process.stderr.read()
        assert process.wait(30) == 0, errors
    assert len(found) == 8
    assert all(b"[DONE]" in text and b'"finish_reason":"length"' in text for text in found), errors
    assert "Traceback" not in errors


def test_addresses_and_settings() -> None:
    with bound(Settings(names=("x",), port=0)) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"
        taken.listen()
        with pytest.raises(HeddleError, match="cannot listen on 127.0.0.1 port"):
            bound(Settings(names=("x",), port=taken.getsockname()[1]))
    with pytest.raises(HeddleError, match="port 99999"):
        bound(Settings(names=("x",), port=99999))
    with pytest.raises(HeddleError, match="nowhere"):
        bound(Settings(names=("x",), host="nowhere.invalid"))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"names": ()}, "needs a name"),
        ({"api_keys": (" ",)}, "API key is empty"),
        ({"certificate": "x"}, "certificate and its key"),
        ({"max_body": 0}, "max_body is 0"),
        ({"drain_seconds": -1}, "drain_seconds is -1"),
    ]
    for options, message in wrong:
        with pytest.raises(RequestError, match=message):
            Settings(**{"names": ("x",), **options})
