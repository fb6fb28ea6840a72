"""What the benchmarks share: options of the command line, the heading that says where figures are from, results as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heddle.runtime.features import physical_cores
from heddle.schedules.target import TargetProfile, resolve_target


def describe() -> dict[str, str]:
    """Machine, commit and command of this run."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    here, command = Path(__file__).parent, ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "machine": f"{(names or [platform.processor()])[0]}, {os.cpu_count()} CPUs, Linux {platform.release()}",
        "commit": commit or "none",
        "command": " ".join(["python", *sys.argv]),
    }


def parser(doc: str | None, rounds: int | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark: threads, target, rounds (None: nothing is repeated), json."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=min(2, len(physical_cores())))
    made.add_argument("--target", default="native")
    if rounds is not None:
        made.add_argument("--rounds", type=int, default=rounds, help="rounds, of which medians are taken")
    made.add_argument("--json", type=Path, help="also write the results here")
    return made


def heading(options: argparse.Namespace, **more: str) -> tuple[TargetProfile, dict[str, str]]:
    """Print what the figures are from; gives the target and the same as a dictionary."""
    target = resolve_target(options.target)
    about = describe() | {"target": target.name, "threads": str(options.threads)} | more
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    return target, about


def write(options: argparse.Namespace, about: dict[str, str], results: Sequence[Any]) -> None:
    """Results (dataclasses or dictionaries) as JSON, where asked."""
    if options.json:
        rows = [r if isinstance(r, dict) else dataclasses.asdict(r) for r in results]
        options.json.write_text(json.dumps({"about": about, "results": rows}, indent=1) + "\n")
