"""Prometheus metrics of a server, under vLLM's names with `heddle:` instead of `vllm:`.

What the engine knows (queues, pages, tokens of a step) is read from it when somebody asks; what a client sees (the first token,
the next ones, the end) is counted as it happens. A request with n > 1 counts once, with the tokens of all its samples.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..outputs import RequestOutput
from ..sampling import SamplingParams
from ..stats import STEP_BOUNDS, EngineMetrics

REASONS = ("stop", "length", "timeout", "abort", "error")
"""How requests end; the first three with an answer."""

# vLLM's buckets, in seconds.
FIRST = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)


class Measured(Protocol):
    """What is measured of a model."""

    @property
    def metrics(self) -> EngineMetrics: ...
    @property
    def context_length(self) -> int: ...


class Metrics:
    """All metrics of one model, with a registry of their own."""

    def __init__(self, model: Measured, model_name: str) -> None:
        self.registry = CollectorRegistry()
        label, tokens = ("model_name",), token_buckets(model.context_length)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"heddle:{name}", what, label, registry=self.registry, buckets=buckets).labels(model_name)

        def counter(name: str, what: str) -> Counter:
            return Counter(f"heddle:{name}", what, label, registry=self.registry).labels(model_name)

        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts, cached ones included.")
        self.generation_tokens = 0
        success = Counter(
            "heddle:request_success",
            "Requests that ended, by how they did.",
            (*label, "finished_reason"),
            registry=self.registry,
        )
        self.success = {reason: success.labels(model_name, reason) for reason in REASONS}
        self.first = histogram("time_to_first_token_seconds", "Seconds to the first token.", FIRST)
        self.between = Tally(BETWEEN)
        self.per_token = histogram(
            "request_time_per_output_token_seconds", "Seconds of a token after the first, mean of a request.", BETWEEN
        )
        self.e2e = histogram("e2e_request_latency_seconds", "Seconds of a whole request.", WHOLE)
        self.queue = histogram("request_queue_time_seconds", "Seconds of waiting for the first step.", WHOLE)
        self.prefill = histogram("request_prefill_time_seconds", "Seconds from the first step to a token.", WHOLE)
        self.decode = histogram("request_decode_time_seconds", "Seconds from the first token to the end.", WHOLE)
        self.inference = histogram("request_inference_time_seconds", "Seconds from the first step to the end.", WHOLE)
        self.request_prompt = histogram("request_prompt_tokens", "Tokens of a prompt.", tokens)
        self.request_generation = histogram("request_generation_tokens", "Tokens generated for a request.", tokens)
        self.request_longest = histogram(
            "request_max_num_generation_tokens", "Tokens of the longest sample of a request.", tokens
        )
        self.params_n = histogram("request_params_n", "n of a request.", (1, 2, 5, 10, 20))
        self.params_max_tokens = histogram("request_params_max_tokens", "max_tokens of a request.", tokens)
        self.registry.register(Scraped(self, model, model_name))
        ProcessCollector(registry=self.registry)

    def begin(self, prompt_tokens: int, params: SamplingParams | None) -> Meter:
        """A meter for a request that begins now; `params` None where it generates nothing (embeddings)."""
        return Meter(self, prompt_tokens, params)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics as a scrape's answer and its content type: OpenMetrics where the Accept header asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class Meter:
    """Measures one request: `output` with every delta that it brings, `end` when it is over, however."""

    def __init__(
        self,
        metrics: Metrics,
        prompt_tokens: int,
        params: SamplingParams | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.prompt_tokens, self.generated_tokens = prompt_tokens, 0
        self._metrics, self._params, self._clock = metrics, params, clock
        self._begin = clock()
        self._first: float | None = None
        self._last: dict[int, float] = {}  # when each sample moved
        self._counts: dict[int, int] = {}
        self._done: RequestOutput | None = None
        self._ended = False

    def output(self, output: RequestOutput) -> None:
        """A delta came."""
        now, new = self._clock(), 0
        for sample in output.outputs:
            count = len(sample.token_ids)
            if not count:
                continue
            new += count
            last = self._last.get(sample.index)
            if last is not None:
                self._metrics.between.observe(now - last)
            self._last[sample.index] = now
            self._counts[sample.index] = self._counts.get(sample.index, 0) + count
        if new:
            self.generated_tokens += new
            self._metrics.generation_tokens += new
            if self._first is None:
                self._first = now
                self._metrics.first.observe(now - self._begin)
                self._metrics.prompt_tokens.inc(self.prompt_tokens)
        if output.finished:
            self._done = output

    def end(self, reason: str) -> None:
        """The request is over; `reason` is one of REASONS. Only the first call counts, so that a `finally` may end with
        "abort" what has no other end."""
        if self._ended:
            return
        self._ended = True
        metrics, now = self._metrics, self._clock()
        metrics.success[reason].inc()
        if self._params is not None:
            metrics.params_n.observe(self._params.n)
            if self._params.max_tokens is not None:
                metrics.params_max_tokens.observe(self._params.max_tokens)
        if reason not in REASONS[:3]:
            return
        if self._first is None:  # nothing was generated, but the prompt was computed
            metrics.prompt_tokens.inc(self.prompt_tokens)
        metrics.e2e.observe(now - self._begin)
        metrics.request_prompt.observe(self.prompt_tokens)
        if self._params is None:
            return
        metrics.request_generation.observe(self.generated_tokens)
        metrics.request_longest.observe(max(self._counts.values(), default=0))
        # With best_of, and without streaming, all tokens come at once, and there is no time between them.
        if self._first is not None and (followers := self.generated_tokens - len(self._counts)) > 0:
            spent = sum(last - self._first for last in self._last.values())
            if spent > 0:
                metrics.per_token.observe(spent / followers)
        times = self._done.metrics if self._done else None
        if times is not None:
            metrics.queue.observe(times.queue_seconds)
            metrics.prefill.observe(times.prefill_seconds)
            metrics.decode.observe(times.decode_seconds)
            metrics.inference.observe(times.prefill_seconds + times.decode_seconds)


class Tally:
    """A histogram for what is counted at every token, ten times as fast as the library's. One thread counts."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value


class Scraped(Collector):
    """What is read at every scrape: the engine's own numbers, and what is counted at every token."""

    def __init__(self, metrics: Metrics, model: Measured, model_name: str) -> None:
        self._metrics, self._model, self._name = metrics, model, model_name

    def collect(self) -> Iterator[Metric]:
        """One snapshot."""
        found = self._model.metrics
        label, at = ["model_name"], [self._name]
        gauges = {
            "num_requests_running": ("Requests in the engine's batch.", found.running),
            "num_requests_waiting": ("Requests that wait for a place in it.", found.waiting),
            "kv_cache_usage_perc": ("Used part of the KV pool, 0 to 1.", 1 - found.free_pages / found.num_pages),
        }
        for name, (what, value) in gauges.items():
            gauge = GaugeMetricFamily(f"heddle:{name}", what, labels=label)
            gauge.add_metric(at, value)
            yield gauge
        counters: dict[str, tuple[str, float]] = {
            "generation_tokens": ("Generated tokens.", self._metrics.generation_tokens),
            "prefix_cache_queries": (
                "Tokens of prompts that were looked up in the prefix cache.",
                found.looked_up_tokens,
            ),
            "prefix_cache_hits": ("Tokens of prompts that the prefix cache had.", found.cached_tokens),
            "prefix_cache_evictions": ("Pages evicted from the prefix cache.", found.evictions),
            "num_preemptions": ("Preemptions, those by swapping included.", found.preemptions),
            "num_swaps": ("Preemptions by swapping.", found.swaps),
            "prefill_tokens_computed": ("Tokens of prompts that were computed.", found.prefill_tokens),
            "engine_busy_seconds": ("Seconds that the engine spent in steps.", found.seconds),
        }
        for name, (what, value) in counters.items():
            counter = CounterMetricFamily(f"heddle:{name}", what, labels=label)
            counter.add_metric(at, value)
            yield counter
        tokens = found.prefill_tokens + found.decode_tokens
        between = self._metrics.between
        yield self._histogram("iteration_tokens_total", "Tokens of a step.", STEP_BOUNDS, found.step_sizes, tokens)
        yield self._histogram(
            "inter_token_latency_seconds", "Seconds from token to token.", between.bounds, between.counts, between.sum
        )
        config = {
            "block_size": str(found.page_tokens),
            "num_gpu_blocks": str(found.num_pages),  # vLLM's name on any device
            "enable_prefix_caching": str(found.prefix_cache),
        }
        info = GaugeMetricFamily("heddle:cache_config_info", "The KV pool.", labels=[*label, *config])
        info.add_metric([*at, *config.values()], 1)
        yield info

    def _histogram(
        self, name: str, what: str, bounds: Sequence[float], counts: Sequence[int], total: float
    ) -> HistogramMetricFamily:
        """A histogram of counts up to each bound and beyond the last."""
        made = HistogramMetricFamily(f"heddle:{name}", what, labels=["model_name"])
        sums = itertools.accumulate(counts)
        buckets = list(zip((*(str(float(bound)) for bound in bounds), "+Inf"), map(float, sums), strict=True))
        made.add_metric([self._name], buckets, total)
        return made


def token_buckets(most: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50, ... up to `most` tokens."""
    bounds: list[float] = []
    scale = 1
    while scale <= most:
        bounds += [step * scale for step in (1, 2, 5) if step * scale <= most]
        scale *= 10
    return tuple(bounds)
