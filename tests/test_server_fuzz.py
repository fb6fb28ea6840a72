"""Whatever comes, the server answers: with an error of the caller's where it is one, and as before right after."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import re
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from heddle import AsyncLLM

from .async_tools import check_idle
from .fuzz_tools import ask, body, check
from .llm_tools import null_artifact
from .server_tools import TOOL_TEMPLATE, Running, running

GOOD = json.dumps({"prompt": "a b", "max_tokens": 4, "seed": 1, "temperature": 1}).encode()
AT_ONCE = 12
T = TypeVar("T")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        folder = null_artifact(tmp_path_factory.mktemp("null"), patch, max_seqs=16, max_tokens=64)
        model = AsyncLLM(folder, chat_template=TOOL_TEMPLATE)
        with running(model, names=("test",), max_body=24 << 20) as found:
            yield found
        model.shutdown(drain=True)
        check_idle(model)


def run(server: Running, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, done in the server's event loop."""
    return asyncio.run_coroutine_threadsafe(work, server.loop).result(600)


def answers_as_ever(server: Running) -> None:
    """A good request gets the answer that it always gets."""
    texts = set()
    for _ in range(2):
        status, answer = run(server, ask(server.app, "/v1/completions", GOOD))
        assert status == 200
        texts.add(json.loads(answer)["choices"][0]["text"])
    assert len(texts) == 1
    assert server.ask("/health")[:2] == (200, {"status": "ok"})
    server.wait_idle()


async def storm(server: Running, count: int, seed: int) -> dict[int, int]:
    """`count` random bodies, some at a time; how often each status came."""
    rng, found = random.Random(seed), dict[int, int]()
    for _ in range(0, count, AT_ONCE):
        sent = [body(rng) for _ in range(AT_ONCE)]
        for (path, data), (status, answer) in zip(
            sent, await asyncio.gather(*(ask(server.app, *one) for one in sent)), strict=True
        ):
            check(status, answer, (path, data[:3000]))
            found[status] = found.get(status, 0) + 1
    return found


def test_random_bodies(server: Running) -> None:
    found = run(server, storm(server, 400, seed=1))
    assert found[200] > 20
    assert found[400] > 100
    answers_as_ever(server)


@pytest.mark.slow
def test_ten_thousand_random_bodies(server: Running) -> None:
    for seed in range(10):
        assert sum(run(server, storm(server, 1000, seed)).values()) >= 1000
        answers_as_ever(server)


LARGE = 10 << 20


WORDS = "word " * (LARGE // 5)
LARGE_BODIES: dict[str, tuple[str, Callable[[], Any]]] = {
    "text": ("/v1/completions", lambda: {"prompt": WORDS, "max_tokens": 2}),
    "spaces": ("/v1/completions", lambda: {"prompt": " " * LARGE}),
    "letters": ("/v1/completions", lambda: {"prompt": "é" * (LARGE // 2)}),
    "token ids": ("/v1/completions", lambda: {"prompt": list(range(4000)) * (LARGE // 22_000)}),
    "many texts": ("/v1/completions", lambda: {"prompt": ["word"] * (LARGE // 8)}),
    "schema": ("/v1/completions", lambda: {"prompt": "a", "structured_outputs": {"json": {"const": WORDS}}}),
    "regex": ("/v1/completions", lambda: {"prompt": "a", "structured_outputs": {"regex": WORDS}}),
    "unknown": ("/v1/completions", lambda: {"prompt": "a", WORDS: 1}),
    "many unknown": ("/v1/completions", lambda: {f"field{i}": 1 for i in range(LARGE // 16)}),
    "chat": ("/v1/chat/completions", lambda: {"messages": [{"role": "user", "content": WORDS}]}),
    "many messages": (
        "/v1/chat/completions",
        lambda: {"messages": [{"role": "user", "content": "hi"}] * (LARGE // 33)},
    ),
    "response": ("/v1/responses", lambda: {"input": WORDS, "stream": True}),
    "embedding": ("/v1/embeddings", lambda: {"input": WORDS}),
    "no JSON": ("/v1/completions", lambda: b"[" * LARGE),
    "zeros": ("/tokenize", lambda: bytes(LARGE)),
}
"""Bodies of 10 MB."""


@pytest.mark.parametrize("name", LARGE_BODIES)
def test_ten_megabytes(server: Running, name: str) -> None:
    """They are refused, by any endpoint, and others are served in the meantime."""
    path, make = LARGE_BODIES[name]
    made = make()
    data = made if isinstance(made, bytes) else json.dumps(made, ensure_ascii=False).encode()
    answer, good = run(server, both(server, path, data))
    check(*answer, (name, answer[1][:300]))
    assert answer[0] == 400
    assert good[0] == 200


async def both(server: Running, path: str, data: bytes) -> list[tuple[int, bytes]]:
    return await asyncio.gather(ask(server.app, path, data), ask(server.app, "/v1/completions", GOOD))


def test_ten_megabytes_of_text_as_tokens(server: Running) -> None:
    """Where no bound holds, the tokens of a long text are counted in a thread."""
    data = json.dumps({"prompt": WORDS}).encode()
    answer, good = run(server, both(server, "/tokenize", data))
    assert good[0] == 200
    check(*answer, "tokenize")


# Over a socket: what is no request at all


RAW_REQUESTS = [
    b"",
    b"\0" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"pro",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{\"prompt\":",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nX-Request-Id: \xff\xfe\r\nAuthorization: Bearer \xe9\r\n\r\n",
    b"GET /../../%00/%ff/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /web/../settings.py HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /web/%2e%2e/settings.py HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/models/%F0%9F%8E%89%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"BREW /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/models?" + b"%" * 999 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(RAW_REQUESTS)))
def test_raw_bytes(server: Running, number: int) -> None:
    """They are refused or waited for; no answer is the server's fault, and none has what is not served."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=0.2) as connection:
        answer = b""
        try:
            connection.sendall(RAW_REQUESTS[number])
            while part := connection.recv(65536):
                answer += part
        except (TimeoutError, ConnectionError):
            pass
    assert not answer or re.match(rb"HTTP/1\.1 [24]\d\d ", answer), answer[:300]
    assert b"dataclass" not in answer
    assert b"root:" not in answer
    if number % 5 == 0:
        answers_as_ever(server)


def test_random_bodies_over_a_socket(server: Running) -> None:
    """Also on a connection that is kept, and by clients that do not wait for the answer."""
    rng = random.Random(7)
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(12):
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        for _ in range(rng.randrange(1, 6)):
            path, data = body(rng)
            connection.request("POST", path, data, {"Content-Type": "application/json"})
            if rng.random() < 0.2:
                break
            response = connection.getresponse()
            check(response.status, response.read(), (path, data[:3000]))
            if response.will_close:
                break
        connection.close()
    answers_as_ever(server)


def test_other_methods_and_types(server: Running) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/nowhere"):
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
            status, answer = run(server, ask(server.app, path, GOOD, method))
            check(status, answer, (method, path))
            assert status in (404, 405)
    for kind in (
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "\xff",
        "application/json; charset=x",
    ):
        status, answer = run(server, ask(server.app, "/v1/completions", GOOD, content_type=kind))
        check(status, answer, kind)
    answers_as_ever(server)


# By the description


POSTS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize", "/detokenize"]
GETS = ["/v1/models", "/v1/models/{name}", "/health", "/version", "/metrics"]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def as_described(server: Running, method: str, path: str, wrong: bool, examples: int) -> None:
    """Requests by /openapi.json, or some that break it, get answers by it; those that break it are refused."""
    operation = schemathesis.openapi.from_url(f"{server.url}/openapi.json")[path][method]
    cases = operation.as_strategy(GenerationMode.NEGATIVE if wrong else GenerationMode.POSITIVE)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(cases)
    def ask_all(case: Case) -> None:
        case.validate_response(case.call(timeout=60), checks=CHECKS)

    ask_all()


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("wrong", [False, True])
def test_the_description_holds(server: Running, path: str, wrong: bool) -> None:
    as_described(server, "POST", path, wrong, 8)


@pytest.mark.parametrize("path", GETS)
def test_the_description_of_what_is_got_holds(server: Running, path: str) -> None:
    as_described(server, "GET", path, False, 12)


def test_all_endpoints_are_described(server: Running) -> None:
    status, found, _ = server.ask("/openapi.json")
    assert status == 200
    assert set(found["paths"]) == {*POSTS, *GETS}


@pytest.mark.slow
@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("wrong", [False, True])
def test_the_description_holds_often(server: Running, path: str, wrong: bool) -> None:
    as_described(server, "POST", path, wrong, 400)
    answers_as_ever(server)
