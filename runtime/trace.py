"""A trace: all that happened to an engine as lines of JSON, complete enough to do every step again (`replay.py`).

The first line describes the engine. Then follow requests as they come (`add`), as they are aborted (`abort`), and steps. A
sequence is written as [id, sample]. A trace holds the token ids of all prompts and texts.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .batch import Batch, Part, StepFault
from .outputs import StepOutput
from .request import Request
from .runner import RunnerInfo
from .sampling import SamplingParams
from .scheduler import Schedule

if TYPE_CHECKING:
    from .engine import Engine

LOG = logging.getLogger("heddle")
FORMAT = 1
SIZES = tuple(name for name in vars(RunnerInfo) if not name.startswith("_"))
TEXTS = ("stop", "bad_words", "structured")
"""Parameters that a trace leaves out: they need a tokenizer. That a stop text came, and what a grammar did, is part of the step."""


class Trace(Protocol):
    """What an engine tells of itself."""

    def add(self, request: Request) -> None:
        """A request came."""
        ...

    def abort(self, request_id: str) -> None:
        """A request was aborted."""
        ...

    def step(
        self, now: float, plan: Schedule, batch: Batch, outputs: list[StepOutput], fault: StepFault | None
    ) -> None:
        """A step that began at `now` is done, or was undone because of `fault`."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class TraceWriter:
    """Writes a trace. A file that cannot be written any more ends the trace, with a warning, and nothing else."""

    def __init__(self, path: str | Path, engine: Engine, **options: Any) -> None:
        self._path = Path(path)
        self._file = self._path.open("w", encoding="utf-8")
        info = engine.runner.info
        sizes = {field: getattr(info, field) for field in SIZES}
        own = {"policy": engine.policy, "max_waiting": engine.max_waiting, "context": engine.context_length}
        versions = {"heddle": importlib.metadata.version("heddle"), "numpy": np.__version__}
        self._write({"heddle_trace": FORMAT, "sizes": sizes, "engine": own | options, "versions": versions})

    def add(self, request: Request) -> None:
        """A request came."""
        line: dict[str, Any] = {"add": request.request_id, "at": request.arrival, "prompt": request.prompt_ids.tolist()}
        line |= {"chunk": request.chunk, "first": request.scored, "pooling": request.pooling}
        line |= {"priority": request.priority, "tenant": request.tenant, "salt": request.salt}
        line |= {"timeout": request.timeout, "ends": sorted(request.end_ids), "max_length": request.max_length}
        if request.matcher is not None:
            line["structured"] = True
        if request.params is not None:
            line["params"] = {
                field.name: getattr(request.params, field.name)
                for field in dataclasses.fields(SamplingParams)
                if field.name not in TEXTS and getattr(request.params, field.name) != field.default
            }
        self._write(line)

    def abort(self, request_id: str) -> None:
        """A request was aborted."""
        self._write({"abort": request_id})

    def step(
        self, now: float, plan: Schedule, batch: Batch, outputs: list[StepOutput], fault: StepFault | None
    ) -> None:
        """A step that began at `now` is done."""
        self._write(step_record(now, plan, batch, outputs, fault))

    def close(self) -> None:
        """End the trace."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError as error:
            LOG.warning("the trace %s ends here: %s", self._path, error)
            self._file.close()


def step_record(
    now: float, plan: Schedule, batch: Batch, outputs: list[StepOutput], fault: StepFault | None
) -> dict[str, Any]:
    """A step as JSON. `rows`: id, sample, first position and number of tokens; `tokens`: id, sample and what was chosen.

    `forced`: id, sample and the tokens that its grammar forced after that one, as far as the text took them.
    `ends`: id, sample and reason; `stopped`: whose text reached a stop text; `complete`: whose grammar. `undone`: the step failed
    before its commit.
    """
    line: dict[str, Any] = {"step": now, "rows": [[*name(p.request), p.start, p.rows] for p in batch.parts]}
    line["tokens"] = [[*name(s), token] for p in batch.parts for s, (token, _) in zip(_drawn(p), p.picks, strict=False)]
    line["ends"] = [[out.request_id, out.index, out.finish_reason] for out in outputs if out.finish_reason]
    failed = {out.request_id: str(out.error) for out in outputs if out.error is not None}
    matched = [(p, s) for p in batch.parts if p.picks for s in _drawn(p) if s.matcher and s.request_id not in failed]
    behind = [[*name(s), s.tokens[p.start + p.rows + 1 :].tolist()] for p, s in matched]
    if forced := [entry for entry in behind if entry[-1]]:
        line["forced"] = forced
    lists: dict[str, Iterable[Request]] = {
        "admitted": plan.admitted,
        "preempted": plan.preempted,
        "swapped": [request for request in plan.preempted if request in plan.swapped],
        "expired": plan.expired,
        "complete": [s for _, s in matched if s.matcher and s.matcher.finished],
        "stopped": [s for p in batch.parts for s in _drawn(p) if s.detokenizer and s.detokenizer.found],
    }
    line |= {key: [name(request) for request in requests] for key, requests in lists.items() if requests}
    if failed:
        line["failed"] = failed
    if fault is not None:
        line["undone"] = True
    return line


def name(request: Request) -> list[Any]:
    """How a trace names a sequence."""
    return [request.request_id, request.index]


def _drawn(part: Part) -> list[Request]:
    """The sequences that got a token: all samples at the end of the prompt, later one."""
    return part.request.group.samples if len(part.picks) > 1 else [part.request]
