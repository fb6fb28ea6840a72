"""Results for people (tables) and for programs (JSON), with what they are from."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..runtime.features import physical_cores

SECRET = ("--api-key", "--header")


def about(**more: Any) -> dict[str, Any]:
    """Machine, version, time and command of this run; values of options that may be keys are left out of the command."""
    return {
        "machine": machine(),
        "heddle": __version__,
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command(sys.argv),
        **more,
    }


def machine() -> str:
    """The CPU by its name, cores, and the system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = f"{len(physical_cores())} cores of {os.cpu_count()} CPUs"
    return f"{(names or [platform.processor() or platform.machine()])[0]}, {cores}, {platform.system()} {platform.release()}"


def command(arguments: Sequence[str]) -> str:
    """The command line without secrets."""
    shown, hide = [], False
    for argument in ["heddle", *arguments[1:]]:
        name, is_pair, _ = argument.partition("=")
        if hide:
            shown.append("...")
        elif name in SECRET and is_pair:
            shown.append(f"{name}=...")
        else:
            shown.append(argument)
        hide = argument in SECRET
    return shlex.join(shown)


def as_json(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """One object: what the figures are from, and a row for each load or batch."""
    return json.dumps({"about": about, "results": rows}, indent=1, allow_nan=False)


def table(title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A table as text: `columns` gives the heading of each key. Missing values are empty."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for i, heading in enumerate(columns.values()):
        made.add_column(heading, justify="right" if i else "left")
    for row in rows:
        made.add_row(*(number(row.get(key)) for key in columns))
    console = Console(width=max(160, 12 * len(columns)), record=False, highlight=False)
    with console.capture() as capture:
        console.print(made)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def number(value: Any) -> str:
    """A value with as many digits as one reads."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return str(value)
