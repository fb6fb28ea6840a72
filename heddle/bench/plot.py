"""Plots of latency against load: a page of HTML with drawings in it, which needs nothing, or a PNG by matplotlib."""

from __future__ import annotations

import dataclasses
import html
import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import HeddleError, RequestError

COLORS = ("#2f6fde", "#d9572b", "#3a9c5c")
WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 30, 44
STYLE = """
:root { color-scheme: light dark; --ink: #222; --grid: #ddd; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --grid: #444; --paper: #191919; } }
body { background: var(--paper); color: var(--ink); font: 14px/1.5 system-ui, sans-serif; margin: 2rem; }
svg { width: 420px; max-width: 100%; } text { fill: var(--ink); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--grid); } pre, table { font-size: 12px; overflow-x: auto; }
"""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing: its title with the unit, and the rows' keys by what the lines are called."""

    title: str
    lines: Mapping[str, str]


SERVE = (
    Panel("Time to first token, ms", {"median": "median_ttft_ms", "p99": "p99_ttft_ms"}),
    Panel("Inter-token latency, ms", {"median": "median_itl_ms", "p99": "p99_itl_ms"}),
    Panel("End-to-end latency, ms", {"median": "median_e2el_ms", "p99": "p99_e2el_ms"}),
    Panel("Generated tokens a second", {"tokens/s": "output_throughput"}),
)
LATENCY = (
    Panel("Time to first token, ms", {"median": "ttft_ms"}),
    Panel("Time per token, ms", {"median": "tpot_ms"}),
    Panel("Generated tokens a second", {"tokens/s": "output_throughput"}),
)


@dataclasses.dataclass(frozen=True)
class Axis:
    """What stands along x: a row's key, and its name."""

    key: str
    name: str


def load_axis(rows: Sequence[Mapping[str, Any]]) -> Axis:
    """What the loads of a server differ by, or (of both kinds, or all at once) what it did."""
    for axis in (Axis("request_rate", "requests a second"), Axis("max_concurrency", "requests at a time")):
        if all(row[axis.key] is not None for row in rows):
            return axis
    return Axis("request_throughput", "requests answered a second")


def check_path(path: Path) -> None:
    """RequestError, before anything is measured, where a plot cannot be written as `path` is named."""
    if path.suffix not in (".html", ".png"):
        raise RequestError(f"a plot cannot be written to {path}", fix="name it .html or .png")
    if path.suffix == ".png":
        _matplotlib()


def write(
    path: Path,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    axis: Axis,
    panels: Sequence[Panel],
    about: Mapping[str, Any],
) -> None:
    """Write the panels, whose lines go over the rows by `axis`, with what they are from."""
    rows = sorted(rows, key=lambda row: row[axis.key])
    if path.suffix == ".png":
        _png(path, title, rows, axis, panels)
        return
    drawings = "\n".join(svg(rows, axis, panel) for panel in panels)
    said = html.escape("\n".join(f"{key}: {value}" for key, value in about.items()))
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{drawings}\n<pre>{said}</pre></body></html>\n",
        encoding="utf-8",
    )


def points(rows: Sequence[Mapping[str, Any]], axis: Axis, key: str) -> list[tuple[float, float]]:
    """The points of a line; rows without a value have none."""
    return [(float(row[axis.key]), float(row[key])) for row in rows if row.get(key) is not None]


def svg(rows: Sequence[Mapping[str, Any]], axis: Axis, panel: Panel) -> str:
    """One panel as SVG."""
    lines = {label: points(rows, axis, key) for label, key in panel.lines.items()}
    xs = ticks(max((x for line in lines.values() for x, _ in line), default=1.0))
    ys = ticks(max((y for line in lines.values() for _, y in line), default=1.0))

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / xs[-1] * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(HEIGHT - BOTTOM - y / ys[-1] * (HEIGHT - TOP - BOTTOM), 1)

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(panel.title)}">']
    out.append(f'<text x="{LEFT}" y="14" style="font-weight:bold">{html.escape(panel.title)}</text>')
    for y in ys:
        left, at = place(0, y)
        out.append(f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        out.append(f'<text x="{left - 6}" y="{at + 4}" text-anchor="end">{y:g}</text>')
    for x in xs:
        at, bottom = place(x, 0)
        out.append(f'<text x="{at}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>')
    out.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{html.escape(axis.name)}</text>')
    for i, (label, line) in enumerate(lines.items()):
        color, found = COLORS[i], [place(x, y) for x, y in line]
        path = " ".join(f"{x},{y}" for x, y in found)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for (x, y), (load, value) in zip(found, line, strict=True):
            out.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"><title>{load:g}: {value:.4g}</title></circle>')
        out.append(f'<text x="{LEFT + 80 * i}" y="{HEIGHT - 8}" style="fill:{color}">{html.escape(label)}</text>')
    return "\n".join([*out, "</svg>"])


def ticks(most: float) -> list[float]:
    """Round numbers from 0 up to `most` or beyond it, four to ten steps apart."""
    if not most > 0:
        return [0.0, 1.0]
    step = 10 ** math.floor(math.log10(most))
    while most / step < 4:
        step /= 2
    return [i * step for i in range(math.ceil(most / step - 1e-9) + 1)]


def _matplotlib() -> Any:
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        raise HeddleError(
            "matplotlib is not installed", "a PNG is drawn by it", "pip install matplotlib, or name the plot .html"
        ) from error
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def _png(path: Path, title: str, rows: Sequence[Mapping[str, Any]], axis: Axis, panels: Sequence[Panel]) -> None:
    pyplot = _matplotlib()
    figure, places = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), constrained_layout=True)
    figure.suptitle(title)
    for place, panel in zip(places, panels, strict=True):
        for (label, key), color in zip(panel.lines.items(), COLORS, strict=False):
            line = points(rows, axis, key)
            place.plot([x for x, _ in line], [y for _, y in line], "o-", color=color, label=label)
        place.set(title=panel.title, xlabel=axis.name, xlim=(0, None), ylim=(0, None))
        place.grid(alpha=0.3)
        place.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
