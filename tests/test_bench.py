"""The parts of `heddle bench` that need no server: prompts, arrivals, figures, tables, plots, and a model in this process."""

from __future__ import annotations

import asyncio
import json
import math
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

from heddle.bench import plot, results
from heddle.bench.client import Answer
from heddle.bench.figures import parse_goals, reaches, summary
from heddle.bench.load import arrivals, closed_loop, open_loop
from heddle.bench.prompts import Ask, Lengths, json_asks, random_asks, random_ids, text_asks
from heddle.cli.bench import command
from heddle.runtime.errors import HeddleError, RequestError
from heddle.runtime.tokenizer import Tokenizer

from .llm_tools import null_artifact
from .tokenizers_for_tests import TINYDOC


def test_random_prompts_have_their_lengths_and_come_again() -> None:
    lengths = Lengths(40, 10, 0.5, common=5)
    asks = random_asks(200, lengths, 3)
    assert asks == random_asks(200, lengths, 3) != random_asks(200, lengths, 4)
    sizes = [len(str(ask.prompt).split()) - 5 for ask in asks]
    assert (min(sizes), max(sizes)) == (20, 60)
    assert {ask.max_tokens for ask in asks} == set(range(5, 16))
    assert len({" ".join(str(ask.prompt).split()[:5]) for ask in asks}) == 1
    assert len({str(ask.prompt) for ask in asks}) == 200
    coder = Tokenizer.load(TINYDOC)
    counts = [len(coder.encode(str(ask.prompt), False)) for ask in random_asks(50, Lengths(40, 10), 3, coder)]
    assert all(abs(count - 40) <= 1 for count in counts)
    ids = random_ids(20, lengths, 0, 100)
    assert all(25 <= len(prompt) <= 65 and max(prompt) < 100 for prompt, _ in ids)
    assert len({tuple(prompt[:5]) for prompt, _ in ids}) == 1


def test_prompts_of_files(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("one two three four five")
    asks = text_asks(text, 8, Lengths(3, 4), 0)
    assert all(len(str(ask.prompt).split()) == 3 and ask.max_tokens == 4 for ask in asks)
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because of it."}]
    talk = [{"role": "user", "content": "hi"}]
    entries: list[Any] = [
        {"prompt": "p", "max_tokens": 7},
        {"messages": talk},
        {"conversations": turns},
        {"other": 1},
        5,
    ]
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, entries)))
    found = json_asks(lines, 6, None, 0)
    assert found[:3] == found[3:]
    assert sorted(map(str, found[:3])) == sorted(map(str, [Ask("p", 7), Ask(talk, 128), Ask("Why?", 3)]))
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps(entries))
    assert json_asks(whole, 6, 9, 0) == [Ask(ask.prompt, 9) for ask in found]
    for name, content, message in (("b.json", "[}", "not JSON"), ("c.json", "[]", "no prompts")):
        (tmp_path / name).write_text(content)
        with pytest.raises(HeddleError, match=message):
            json_asks(tmp_path / name, 1, None, 0)
    with pytest.raises(HeddleError, match="cannot be read"):
        text_asks(tmp_path / "missing", 1, Lengths(), 0)


def test_arrivals_have_their_rate_and_burstiness() -> None:
    times = arrivals(4000, 5.0, 1.0, 0)
    assert times[0] == 0
    assert times == sorted(times) == arrivals(4000, 5.0, 1.0, 0) != arrivals(4000, 5.0, 1.0, 1)
    assert 4000 / times[-1] == pytest.approx(5, rel=0.05)

    def variation(burstiness: float) -> float:
        gaps = np.diff(arrivals(4000, 5.0, burstiness, 0))
        return float(gaps.std() / gaps.mean())

    for burstiness in (0.25, 1, 16):
        assert variation(burstiness) == pytest.approx(1 / math.sqrt(burstiness), rel=0.1)
    assert arrivals(3, math.inf, 1, 0) == [0, 0, 0]


def test_loops_are_open_and_closed() -> None:
    asks = [Ask(str(i), 1) for i in range(10)]
    running, most = 0, 0
    reports: list[int] = []

    async def send(ask: Ask, due: float) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return Answer(due, prompt_tokens=int(str(ask.prompt)))

    closed = asyncio.run(closed_loop(asks, 3, send, lambda: reports.append(1)))
    assert most == 3
    opened = asyncio.run(open_loop(asks, [0.0] * 9 + [0.05], send, lambda: reports.append(1)))
    assert most == 9
    assert len(reports) == 20
    for answers in (closed, opened):
        assert [answer.prompt_tokens for answer in answers] == list(range(10))
    assert opened[9].due - opened[0].due == pytest.approx(0.05)


def answer(ttft: float, gaps: list[float], at: float = 0.0) -> Answer:
    return Answer(at, at, at + ttft, at + ttft + sum(gaps), gaps, 10, len(gaps) + 1)


def test_figures_are_vllms() -> None:
    one, two = answer(0.1, [0.01, 0.03]), answer(0.3, [0.02, 0.02], at=0.5)
    failed = Answer(0.2, 0.25, error="ValueError: 500")
    found = summary([one, two, failed], {"ttft": 200.0})
    assert (found["completed"], found["failed"], found["errors"]) == (2, 1, {"ValueError: 500": 1})
    assert found["duration"] == pytest.approx(0.84)
    assert found["output_throughput"] == pytest.approx(6 / 0.84)
    assert found["total_token_throughput"] == pytest.approx(26 / 0.84)
    assert found["request_goodput"] == pytest.approx(1 / 0.84)
    assert found["mean_ttft_ms"] == pytest.approx(200)
    assert found["median_itl_ms"] == pytest.approx(20)
    assert found["mean_tpot_ms"] == pytest.approx(20)
    assert found["p99_e2el_ms"] == pytest.approx(140 + 0.99 * 200)
    assert found["late_ms"] == pytest.approx(50)
    assert found["concurrency"] == pytest.approx((0.14 + 0.34) / 0.84)
    empty = summary([failed], {})
    assert (empty["completed"], empty["median_ttft_ms"], empty["output_throughput"]) == (0, None, 0)
    single = answer(0.1, [])
    assert single.tpot is None
    assert reaches(single, {"tpot": 1.0, "e2el": 101.0})
    assert not reaches(single, {"e2el": 99.0})


def test_goals() -> None:
    assert parse_goals(["ttft:500", "e2el:1e3"]) == {"ttft": 500, "e2el": 1000}
    for wrong in ("ttft", "itl:5", "ttft:-1", "ttft:x"):
        with pytest.raises(RequestError, match="is no limit"):
            parse_goals([wrong])


def test_commands_are_kept_without_keys() -> None:
    given = ["x/heddle", "bench", "--api-key", "secret", "--header=A:secret", "--header", "B:secret", "--seed", "1"]
    assert results.command(given) == "heddle bench --api-key ... --header=... --header ... --seed 1"


def test_tables_and_plots(tmp_path: Path) -> None:
    rows = [
        {"load": f"{rate} <req/s>", "request_rate": rate, "max_concurrency": None, "request_throughput": rate - 0.1}
        | {f"{kind}_{name}_ms": 10.0 * rate for kind in ("median", "p99") for name in ("ttft", "itl", "e2el")}
        | {"output_throughput": None if rate == 1 else 1234.5}
        for rate in (3, 1, 2)
    ]
    text = results.table("", rows, {"load": "load", "median_ttft_ms": "TTFT", "output_throughput": "tok/s"})
    assert text.split("\n")[-3:] == [line.rstrip() for line in text.split("\n")[-3:]]
    assert "30.0" in text
    assert "1234" in text
    axis = plot.load_axis(rows)
    assert axis.key == "request_rate"
    assert plot.load_axis([*rows, {"request_rate": None, "max_concurrency": 4}]).key == "request_throughput"
    page = tmp_path / "a.html"
    plot.write(page, "a <model>", rows, axis, plot.SERVE, {"command": "<x>"})
    found = page.read_text()
    assert "&lt;model&gt;" in found
    assert "<x>" not in found
    assert "http" not in found.replace("http-equiv", "")
    drawing = xml.etree.ElementTree.fromstring(plot.svg(rows, axis, plot.SERVE[0]))
    lines = [line.attrib["points"].split() for line in drawing.iter("polyline")]
    assert [len(line) for line in lines] == [3, 3]
    assert plot.ticks(10) == [0, 2.5, 5, 7.5, 10]
    assert plot.ticks(0) == [0, 1]
    for most in (0.07, 1, 3.3, 99, 1e6):
        steps = plot.ticks(most)
        assert 5 <= len(steps) <= 11
        assert steps[-1] >= most > steps[-2]
    with pytest.raises(RequestError, match="name it .html or .png"):
        plot.check_path(tmp_path / "a.svg")


def invoke(*arguments: str) -> Any:
    done = click.testing.CliRunner().invoke(command, list(arguments), catch_exceptions=False, standalone_mode=False)
    return done.stdout


def test_latency_and_throughput_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(null_artifact(tmp_path, monkeypatch))
    sizes = ("--input-len", "20", "--output-len", "6")
    page, kept = tmp_path / "p.html", tmp_path / "kept.json"
    batches = ("--batch-size", "1", "--batch-size", "3", "--repeat", "2")
    out = invoke("latency", model, *sizes, *batches, "--json", "-o", str(kept), "--plot", str(page))
    found = json.loads(out)
    assert json.loads(kept.read_text()) == found
    assert [row["batch_size"] for row in found["results"]] == [1, 3]
    for row in found["results"]:
        assert 0 < row["ttft_ms"] < row["e2el_ms"]
        assert len(row["repeats"]) == 2
    assert {"machine", "command", "heddle", "threads"} <= set(found["about"])
    assert page.read_text().count("<svg") == len(plot.LATENCY)
    assert "output tok/s" in invoke("latency", model, *sizes, "--repeat", "1")
    for arguments, message in (
        (("--input-len", "300"), "do not fit into the context"),
        (("--batch-size", "4"), "more than the 3 sequences"),
    ):
        with pytest.raises(RequestError, match=message):
            invoke("latency", model, *arguments)
    (row,) = json.loads(invoke("throughput", model, *sizes, "--num-prompts", "7", "--json"))["results"]
    assert (row["num_requests"], row["total_input_tokens"], row["total_output_tokens"]) == (7, 140, 42)
    talk = tmp_path / "talk.jsonl"
    talk.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}))
    arguments = ("--num-prompts", "2", "--dataset-path", str(talk), "--json")
    (row,) = json.loads(invoke("throughput", model, *arguments))["results"]
    assert (row["num_requests"], row["total_output_tokens"]) == (2, 10)


def test_a_png_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(HeddleError, match="pip install matplotlib"):
        plot.check_path(tmp_path / "a.png")
