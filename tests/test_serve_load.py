"""The server under load: clients that come and go leave nothing behind, and SIGTERM lets answers finish."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from heddle import AsyncLLM
from heddle.bench.prompts import Lengths, random_asks
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # where a script finds its neighbours

import serve_load
import server
from served import Served


@pytest.mark.parametrize(
    ("clients", "seconds"), [(48, 2.5), pytest.param(256, 300, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_clients_that_come_and_go_leave_nothing_behind(tinydoc: Path, clients: int, seconds: float) -> None:
    with AsyncLLM(tinydoc, threads=1) as model:
        found = serve_load.load(model, seconds, clients)
    assert not found.problems
    assert found.ends["done"] > clients
    if seconds > 60:  # before that buffers and caches still fill
        assert found.growth < serve_load.GROWTH


def test_sigterm_lets_answers_finish(tinydoc: Path) -> None:
    found = serve_load.drain(tinydoc, 16, "--threads", "1")
    assert found.open > 0
    assert found.ends == {"done": 16}
    assert found.code == 0
    assert found.late.startswith(("503", "ClientConnectorError", "ServerDisconnectedError"))


def test_what_a_load_must_not_leave() -> None:
    good = serve_load.Found({"done": 9, "left": 1}, [100] * 10, (2, 2), 0, 0, 50)
    assert good.problems == []
    assert good.growth == 0
    bad = serve_load.Found({"done": 9, "500 oh": 2}, [int(i * 1e8) for i in range(10)], (2, 3), 1, 4, 50)
    assert [problem.split()[0] for problem in bad.problems] == ["2", "only", "2", "1"]
    assert bad.growth > serve_load.GROWTH


def test_first_tokens_are_not_held_back_on_their_way(tinydoc: Path) -> None:
    """Small parts that wait for the acknowledgement of others come 40 ms late, all of them."""
    asks = random_asks(12, Lengths(8, 4), 0)
    with AsyncLLM(tinydoc, threads=1) as model, Served(model) as served:
        engine, http = asyncio.run(server.firsts(model, served.url, asks))
        assert len(engine) == len(http) == 6
        assert min(http) - min(engine) < 30
        assert server.over_http(served.url, 3, Lengths(8, 20), 0, tinydoc)["tokens"] > 0
        assert asyncio.run(server.in_process(model, asks))["tokens"] > 0
