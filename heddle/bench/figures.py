"""Figures of a run, from its answers. Names and definitions are those of `vllm bench serve`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..runtime.errors import RequestError
from .client import Answer

TIMES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token after the first",
    "itl": "Inter-token latency",
    "e2el": "End-to-end latency",
}
GOALS = ("ttft", "tpot", "e2el")
"""What goodput may ask of every request, in milliseconds."""


def summary(answers: Sequence[Answer], goals: Mapping[str, float]) -> dict[str, Any]:
    """The figures; latencies in milliseconds, None where no answer has any.

    duration: from when the first request was due to the last token. concurrency: requests under way in the mean. late_ms: by
    how much the client itself was late with a request, at worst: where that is much, it measured itself.
    """
    good = [answer for answer in answers if answer.ok]
    begin = min((answer.due for answer in answers), default=0.0)
    duration = max((answer.last for answer in answers), default=0.0) - begin
    prompt, output = sum(a.prompt_tokens for a in good), sum(a.output_tokens for a in good)
    values = {
        "ttft": [a.ttft for a in good if a.first is not None],
        "tpot": [a.tpot for a in good if a.tpot is not None],
        "itl": [gap for a in good for gap in a.gaps],
        "e2el": [a.latency for a in good],
    }
    found: dict[str, Any] = {
        "completed": len(good),
        "failed": len(answers) - len(good),
        "duration": duration,
        "total_input_tokens": prompt,
        "total_output_tokens": output,
        "request_throughput": _rate(len(good), duration),
        "output_throughput": _rate(output, duration),
        "total_token_throughput": _rate(prompt + output, duration),
        "concurrency": _rate(sum(a.latency for a in good), duration),
        "late_ms": max((answer.sent - answer.due for answer in answers), default=0.0) * 1e3,
    }
    if goals:
        found["request_goodput"] = _rate(sum(reaches(a, goals) for a in good), duration)
    for name, seconds in values.items():
        found |= {f"{kind}_{name}_ms": value for kind, value in _spread(seconds).items()}
    if any(answer.counted for answer in good):
        found["counted"] = "the server gives no usage: parts of its answers were counted, not tokens"
    if len(good) < len(answers):
        found["errors"] = dict(Counter(str(answer.error) for answer in answers if not answer.ok).most_common(5))
    return found


def reaches(answer: Answer, goals: Mapping[str, float]) -> bool:
    """Whether an answer keeps all limits, in milliseconds. What has no time per token keeps any limit of it."""
    times = {"ttft": answer.ttft, "tpot": answer.tpot or 0.0, "e2el": answer.latency}
    return all(times[name] * 1e3 <= limit for name, limit in goals.items())


def parse_goals(texts: Sequence[str]) -> dict[str, float]:
    """Limits like `ttft:500`, in milliseconds. RequestError names one that is none."""
    goals = {}
    for text in texts:
        name, _, limit = text.partition(":")
        try:
            goals[name] = float(limit)
        except ValueError:
            goals[name] = float("nan")
        if name not in GOALS or not goals[name] > 0:
            raise RequestError(
                f"goodput {text!r} is no limit", fix=f"NAME:MILLISECONDS with NAME of {', '.join(GOALS)}"
            )
    return goals


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _spread(seconds: Sequence[float]) -> dict[str, float | None]:
    """Mean, deviation and percentiles in milliseconds."""
    names = ("mean", "std", "median", "p90", "p99")
    if not seconds:
        return dict.fromkeys(names)
    values = np.asarray(seconds) * 1e3
    found = (values.mean(), values.std(), *np.percentile(values, (50, 90, 99)))
    return {name: float(value) for name, value in zip(names, found, strict=True)}
