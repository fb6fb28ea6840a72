"""The parts of the engine's benchmark that need no peer and no model: workloads, latencies, ratios, goals, the table."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # where a script finds its neighbours

import engine
import systems
import workloads


def test_workloads_are_what_they_say_and_always_the_same() -> None:
    work = workloads.mixed(64, 1000, 0)
    assert work == workloads.mixed(64, 1000, 0) != workloads.mixed(64, 1000, 1)
    assert all(32 <= len(prompt) <= 512 for prompt in work.prompts)
    assert all(16 <= count <= 128 for count in work.counts)
    assert all(300 <= token < 1000 for prompt in work.prompts for token in prompt)
    late = work.poisson(2.0, 0)
    assert late.arrivals is not None
    assert late.arrivals[0] == 0
    assert late.arrivals == sorted(late.arrivals)
    assert 0.5 * 64 / 2 < late.arrivals[-1] < 2 * 64 / 2
    one = workloads.shared_prefix(16, 40, 1000, 0)
    assert len({tuple(prompt[:40]) for prompt in one.prompts}) == 1
    some = workloads.groups([3, 5], 40, 7, 1000, 0)
    assert some.generated == 8 * 7
    heads = [tuple(prompt[:40]) for prompt in some.prompts]
    assert sorted(heads.count(head) for head in set(heads)) == [3, 5]
    assert len(set(map(tuple, some.prompts))) == 8


def test_latencies_are_of_gaps_and_first_tokens() -> None:
    found = workloads.Latency.of([[0.1, 0.2, 0.4], [0.3], [0.5, 0.6]])
    assert found.between_p50 == pytest.approx(100)
    assert found.between_p99 == pytest.approx(np.percentile([100, 200, 100], 99))
    assert found.first_p50 == pytest.approx(300)


def bench(answers: list[dict[str, Any]]) -> engine.Bench:
    """A bench whose only system gives these answers."""
    worker: Any = SimpleNamespace(
        system=systems.System("fake", "heddle_engine", "", 2), disturbance=0.0, ask=lambda **_: answers.pop(0)
    )
    return engine.Bench(worker, None, 2, 64, None)


def test_a_system_that_stops_early_is_no_result() -> None:
    work = workloads.Workload([[1], [2]], [2, 3])
    made = bench([{"tokens": [2, 3], "seconds": 1.0}, {"times": [[0.1, 0.2], [0.1, 0.2]], "seconds": 1.0}])
    assert made.serve(made.heddle, work)["seconds"] == 1
    with pytest.raises(systems.Unavailable, match="fake generated 4 tokens of 5"):
        made.serve(made.heddle, work)


def test_ways_take_turns_and_ratios_are_of_rounds() -> None:
    order: list[int] = []
    found = bench([]).alternate([lambda: order.append(0) or 1.0, lambda: order.append(1) or 2.0])  # type: ignore
    assert order == [0, 1, 1, 0]
    assert found == [[1.0, 1.0], [2.0, 2.0]]
    assert engine.median_ratio([2, 6, 8], [1, 2, 2]) == 3


def test_the_table_says_which_goals_were_met() -> None:
    made = bench([])
    made.add("a", 2.0, least=1.5)
    made.add("b", 2.0, most=0.5)
    made.add("c", 2.0)
    assert engine.table(made.rows).splitlines() == [
        "a          2  >= 1.5  met",
        "b          2  <= 0.5  MISSED",
        "c          2",
    ]


def test_arrivals_need_a_rate() -> None:
    with pytest.raises(SystemExit, match="run `batch` too"):
        bench([]).arrivals()


def test_kinds_of_systems() -> None:
    assert (engine.HEDDLE.kind, engine.PEER.kind) == ("heddle", "peer")
