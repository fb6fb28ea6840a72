"""What the workers of side_by_side.py share. A worker runs in the environment of its system, so this needs no package.

    python WORKER prepare CHECKPOINT FOLDER VARIANT                  makes what is loaded, prints a dictionary as JSON
    python WORKER serve FOLDER VARIANT --cores 0,1 --context 4096    loads it and answers requests, JSON lines

The first answer of `serve` is {"seconds": of loading}. A request {"prompts": [[id, ...], ...], "count": n} is answered with
{"first": seconds until every prompt has its first token, "rest": seconds of the others, "tokens": generated for each prompt},
{"rate": bytes} with {"rate": GB/s} by the worker that measures limits, and {"memory": true} with {"peak": bytes}. Workers of
engine.py also answer {"call": method, "arguments": {...}} with the dictionary that the method gives.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

Prompts = list[list[int]]
Timing = tuple[float, float, int]


class Loaded(Protocol):
    """A system with its model in memory."""

    def generate(self, prompts: Prompts, count: int) -> Timing:
        """Generate `count` tokens for each prompt (all of one length), greedily, end tokens ignored; first, rest, tokens."""
        ...


class Server(Protocol):
    """A system that serves requests as they come, for engine.py."""

    def serve(
        self, prompts: Prompts, counts: list[int], arrivals: list[float] | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Generate `counts` tokens for the prompts, greedily, end tokens ignored, with these options of the system.

        They come `arrivals` seconds after the start, None: all at once. Gives {"seconds": for all of it}, and where they have
        arrivals "times": of each request the seconds from its arrival to each of its tokens.
        """
        ...


Prepare = Callable[[Path, Path, str], dict[str, Any]]
Load = Callable[[Path, str, int, int], Any]


def main(prepare: Prepare, load: Load) -> None:
    """Run as the command line says; `load` takes the folder, the variant, threads and context."""
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=("prepare", "serve"))
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--cores", default="0")
    parser.add_argument("--context", type=int, default=4096)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout as they like
    if options.action == "prepare":
        checkpoint, folder, variant = options.paths
        print(json.dumps(prepare(Path(checkpoint), Path(folder), variant)), file=answers, flush=True)
        return
    folder, variant = options.paths
    _end_with_parent()
    cores = [int(core) for core in options.cores.split(",")]
    os.sched_setaffinity(0, cores)
    start = time.perf_counter()
    loaded = load(Path(folder), variant, len(cores), options.context)
    print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(loaded, json.loads(line))), file=answers, flush=True)


def _answer(loaded: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        if "memory" in request:
            return {"peak": peak_memory()}
        if "rate" in request:
            return {"rate": loaded.rate(request["rate"])}
        if "call" in request:
            return dict(getattr(loaded, request["call"])(**request["arguments"]))
        first, rest, tokens = loaded.generate(request["prompts"], request["count"])
        return {"first": first, "rest": rest, "tokens": tokens}
    except Exception as error:  # whatever a library raises is reported, the other systems go on
        return {"error": f"{type(error).__name__}: {error}"}


def _end_with_parent() -> None:
    """A worker that is stopped does not notice that its input ended; the system kills it where its parent dies (Linux)."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def peak_memory() -> int:
    """The most memory that this process ever had, in bytes, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) << 10


def timed(step: Callable[[], object], count: int) -> Timing:
    """`count` calls of `step`, each of which gives every prompt a token; the first serves the prompts too."""
    start = time.perf_counter()
    step()
    first = time.perf_counter()
    for _ in range(count - 1):
        step()
    return first - start, time.perf_counter() - first, count
