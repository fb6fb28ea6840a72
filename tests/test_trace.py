"""Traces: whatever happened to an engine happens again on the null device, step for step."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.cli import main
from heddle.runtime.engine import Engine
from heddle.runtime.errors import DeadlineError
from heddle.runtime.null_runner import NullRunner
from heddle.runtime.replay import Replayed, TraceError, replay
from heddle.runtime.sampling import SamplingParams
from heddle.runtime.scheduler import POLICIES, PREEMPTIONS

from .tokenizers_for_tests import byte_level


def run(path: Path, seed: int, policy: str = "fcfs", preemption: str = "recompute") -> int:
    """Random load with all kinds of requests, aborts, faults and interrupts; the number of steps that were done."""
    rng = np.random.default_rng(seed)
    now = [0.0]
    runner = NullRunner(max_tokens=30, max_seqs=4, num_pages=8, vocab_size=97)
    engine = Engine(
        runner,
        byte_level(),
        policy=policy,
        preemption=preemption,
        swap_bytes=4 * 128,
        clock=lambda: now[0],
        trace=path,
    )

    def receive(position: int, results: np.ndarray) -> None:
        if rng.random() < 0.1:
            raise OSError("the disk is full")

    steps = 0
    for turn in range(120):
        now[0] += 1.0
        options: dict[str, Any] = {"priority": int(rng.integers(3)), "tenant": "ab"[rng.integers(2)]}
        prompt = [*range(int(rng.integers(40))), int(rng.integers(97))]
        kind = rng.random()
        if kind < 0.15 and turn < 60:
            width = int(rng.integers(1, 4))
            params = SamplingParams(n=1, best_of=width, max_tokens=int(rng.integers(1, 30)), stop=["e", "4"], seed=turn)
            engine.add_request(prompt, params, timeout=None if turn % 3 else 20.0, **options)
        elif kind < 0.25 and turn < 60:
            prepare = engine.prepare_scoring if kind < 0.2 else engine.prepare_pooling
            engine.add(prepare(prompt, receive, first=len(prompt) // 2, timeout=5.0, **options))
        elif kind < 0.28 and engine.groups:
            engine.abort(next(iter(engine.groups)))
        if kind > 0.97:
            runner.fail_next = RuntimeError("on fire") if kind > 0.985 else KeyboardInterrupt()
        if engine.has_work:
            with contextlib.suppress(KeyboardInterrupt):
                engine.step()
            steps += 1
    engine.close()
    return steps


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("preemption", PREEMPTIONS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_every_run_is_replayed_step_for_step(
    policy: str, preemption: str, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    steps = run(path, seed, policy, preemption)
    assert replay(path) == Replayed(steps)


def test_a_request_whose_time_was_used_up_before_it_came(tmp_path: Path) -> None:
    """As the thread of an AsyncLLM adds one that has waited for longer than its timeout."""
    path = tmp_path / "trace.jsonl"
    engine = Engine(NullRunner(), byte_level(), trace=path)
    for request in (
        engine.prepare([1, 2], timeout=1.0),
        engine.prepare_pooling([1, 2], lambda position, states: None, timeout=1.0),
    ):
        request.timeout = 0.0
        engine.add(request)
    (text, states) = engine.step()
    assert text.finish_reason == "timeout"
    assert isinstance(states.error, DeadlineError)
    engine.close()
    assert replay(path) == Replayed(1)


def test_a_trace_that_was_changed_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.jsonl"
    steps = run(path, 3)
    assert command(path) == 0
    assert capsys.readouterr().out == f"{steps} steps replayed\n"
    lines = path.read_text().splitlines()
    at = max(
        i for i, line in enumerate(lines) if '"step"' in line and '"undone"' not in line and json.loads(line)["rows"]
    )
    step = json.loads(lines[at])
    step["rows"][0][3] += 1
    lines[at] = json.dumps(step)
    path.write_text("\n".join(lines) + "\n")
    found = replay(path)
    assert found.difference is not None
    assert f"line {at + 1}, step {found.steps}: rows was" in found.difference
    assert command(path, "--json") == 1
    assert json.loads(capsys.readouterr().out)["difference"] == found.difference


def command(*args: object) -> int:
    try:
        main(["replay", *map(str, args)])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no trace: heddle_trace is 'no such field'"),
        ("{}\n", "is no trace"),
        ('{"heddle_trace": 99}\n', "heddle_trace is 99, this Heddle reads 1"),
        ("hello\n", "cannot be read as a trace"),
        ("[]\n", "a line is no object"),
        ('{"heddle_trace": 1}\n', "line 1, is not what a trace has there"),
    ],
)
def test_files_that_are_no_traces(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(TraceError, match=message):
        replay(path)
    assert command(path) == 1
    assert "trace" in capsys.readouterr().err
    with pytest.raises(TraceError, match="cannot be read"):
        replay(tmp_path / "missing")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    run(path, 1)
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"add"' in line)
    lines[at] = '{"add": "request-0"}'
    path.write_text("\n".join(lines))
    with pytest.raises(TraceError, match=f"line {at + 1}, is not what a trace has there"):
        replay(path)


def test_a_trace_that_cannot_be_written_ends_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(NullRunner(), trace=tmp_path / "trace.jsonl")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("heddle.runtime.trace.json.dumps", full)
    with caplog.at_level(logging.WARNING, "heddle"):
        engine.add_request([1, 2], SamplingParams(max_tokens=2))
    outputs = [out for _ in range(2) for out in engine.step()]
    assert outputs[-1].output is not None
    assert "ends here: no space left" in caplog.text
