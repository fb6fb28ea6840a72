"""Metrics of the server: what a scrape says after requests of known kinds, and the dashboard that is made of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from heddle import AsyncLLM, SamplingParams
from heddle.runtime.outputs import CompletionOutput, RequestMetrics, RequestOutput
from heddle.runtime.server.metrics import Meter, Metrics, token_buckets
from heddle.runtime.stats import STEP_BOUNDS

from .async_tools import PARAMS
from .conftest import ROOT
from .llm_tools import null_artifact


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AsyncLLM]:
    with AsyncLLM(null_artifact(tmp_path, monkeypatch), max_waiting=8) as made:
        yield made


def scrape(metrics: Metrics) -> dict[str, Any]:
    """Values of all samples; those of histograms only as _sum and _count."""
    text, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    found: dict[str, Any] = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation
        for sample in family.samples:
            if family.name.startswith("heddle:"):
                assert sample.labels["model_name"] == "tiny"
            rest = [v for k, v in sample.labels.items() if k not in ("model_name", "le")]
            if not sample.name.endswith("_bucket"):
                found[" ".join([sample.name.removeprefix("heddle:"), *rest])] = sample.value
    return found


async def measured(model: AsyncLLM, metrics: Metrics, prompt: list[int], params: SamplingParams) -> Meter:
    meter = metrics.begin(len(prompt), params)
    async for output in model.generate(prompt, params, output_kind="delta"):
        meter.output(output)
        if output.finished:
            meter.end(str(output.outputs[0].finish_reason))
    return meter


def test_a_scrape_tells_what_was_served(model: AsyncLLM) -> None:
    metrics = Metrics(model, "tiny")
    before = scrape(metrics)
    sums = [name for name in before if name.endswith(("_total", "_count", "_sum")) and not name.startswith("process")]
    assert [name for name in sums if before[name]] == []
    prompt = list(range(3, 43))

    async def run() -> None:
        await measured(model, metrics, prompt, PARAMS)
        several = SamplingParams(n=2, max_tokens=6, ignore_eos=True, seed=1)
        assert (await measured(model, metrics, prompt, several)).generated_tokens == 12
        best = SamplingParams(best_of=3, max_tokens=6, ignore_eos=True, seed=1)
        await measured(model, metrics, prompt, best)

    asyncio.run(run())
    metrics.begin(5, None).end("stop")  # an embedding
    left = metrics.begin(7, PARAMS)
    left.end("abort")
    left.end("stop")
    after = scrape(metrics)
    engine = model.metrics
    assert after["prompt_tokens_total"] == 3 * 40 + 5
    assert after["generation_tokens_total"] == 12 + 12 + 6
    assert after["request_success_total length"] == 3
    assert after["request_success_total stop"] == after["request_success_total abort"] == 1
    assert after["request_success_total error"] == after["request_success_total timeout"] == 0
    assert after["time_to_first_token_seconds_count"] == 3
    assert after["inter_token_latency_seconds_count"] == 11 + 10
    assert after["e2e_request_latency_seconds_count"] == 4
    assert after["request_queue_time_seconds_count"] == after["request_decode_time_seconds_count"] == 3
    assert after["request_prompt_tokens_sum"] == 3 * 40 + 5
    assert after["request_generation_tokens_sum"] == 30
    assert after["request_max_num_generation_tokens_sum"] == 12 + 6 + 6
    assert after["request_params_n_sum"] == 1 + 2 + 1 + 1
    assert after["request_params_max_tokens_sum"] == 12 + 6 + 6 + 12
    assert after["prefix_cache_queries_total"] == engine.looked_up_tokens
    assert after["prefix_cache_hits_total"] == engine.cached_tokens > 0
    assert after["iteration_tokens_total_count"] == engine.steps == sum(engine.step_sizes)
    assert after["iteration_tokens_total_sum"] == engine.prefill_tokens + engine.decode_tokens
    assert after["num_requests_running"] == after["num_requests_waiting"] == 0
    assert 0 <= after["kv_cache_usage_perc"] < 1
    assert after[f"cache_config_info 16 True {engine.num_pages}"] == 1
    assert len(engine.step_sizes) == len(STEP_BOUNDS) + 1


def test_times_are_those_of_the_clock(model: AsyncLLM) -> None:
    metrics, now = Metrics(model, "tiny"), 100.0
    meter = Meter(metrics, 4, SamplingParams(max_tokens=3), lambda: now)

    def delta(tokens: tuple[int, ...], times: RequestMetrics | None = None) -> RequestOutput:
        sample = CompletionOutput(0, "", tokens, None)
        return RequestOutput("r", None, (1,), [sample], times is not None, times)

    for at, tokens in ((101.0, (5,)), (101.5, (6, 7)), (102.0, ())):
        now = at
        meter.output(delta(tokens))
    now = 103.0
    meter.output(delta((8,), RequestMetrics(10.0, 10.25, 11.25, 13.25, 0)))
    now = 104.0
    meter.end("length")
    found = scrape(metrics)
    assert found["time_to_first_token_seconds_sum"] == 1.0
    assert found["inter_token_latency_seconds_sum"] == 2.0
    assert found["inter_token_latency_seconds_count"] == 2
    assert found["request_time_per_output_token_seconds_sum"] == pytest.approx(2 / 3)
    assert found["e2e_request_latency_seconds_sum"] == 4.0
    assert found["request_queue_time_seconds_sum"] == 0.25
    assert found["request_prefill_time_seconds_sum"] == 1.0
    assert found["request_decode_time_seconds_sum"] == 2.0
    assert found["request_inference_time_seconds_sum"] == 3.0


def test_openmetrics_where_it_is_asked_for(model: AsyncLLM) -> None:
    text, content_type = Metrics(model, "tiny").render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_buckets_of_tokens_end_at_the_context() -> None:
    assert token_buckets(256) == (1, 2, 5, 10, 20, 50, 100, 200)
    assert token_buckets(1) == (1,)


def test_the_dashboard_asks_for_what_there_is(model: AsyncLLM) -> None:
    text, _ = Metrics(model, "tiny").render()
    names = {sample.name for family in text_string_to_metric_families(text.decode()) for sample in family.samples}
    board = json.loads((ROOT / "docs" / "grafana.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    asked += [v["definition"] for v in board["templating"]["list"] if v["type"] == "query"]
    used = {name for expression in asked for name in re.findall(r"(?:heddle:|process_)\w+", expression)}
    assert used <= names, sorted(used - names)
    assert {"heddle:num_requests_running", "heddle:generation_tokens_total"} <= used
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in board["panels"]):
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
