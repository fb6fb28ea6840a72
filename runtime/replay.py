"""Doing a trace again on the null device: the same requests, the recorded tokens, every decision compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .batch import Batch, StepFault
from .engine import Engine
from .errors import HeddleError
from .null_runner import NullRunner
from .outputs import StepOutput
from .plans import PlanSequence
from .request import Request
from .sampler import Draw, Sampled, Sampler, TokenLogprobs
from .sampling import SamplingParams
from .scheduler import Schedule
from .trace import FORMAT, step_record


class TraceError(HeddleError):
    """A file is no trace, or one of another version, or damaged; the message names the line."""


class RecordedError(Exception):
    """Stands for whatever failed when the trace was written."""


@dataclasses.dataclass(frozen=True)
class Replayed:
    """How far a replay came. `difference` says where the engine decided otherwise than the trace, None if nowhere."""

    steps: int
    difference: str | None = None


def replay(path: str | Path) -> Replayed:
    """Do the trace at `path` again until its end or the first step that differs. TraceError where it cannot be read."""
    lines = _read(Path(path))
    number, header = next(lines, (1, {}))
    if header.get("heddle_trace") != FORMAT:
        found = header.get("heddle_trace", "no such field")
        raise TraceError(f"{path} is no trace: heddle_trace is {found!r}, this Heddle reads {FORMAT}")
    try:
        again = _Replay(header)
        for number, line in lines:
            difference = again.do(line)
            if difference:
                return Replayed(again.steps, f"line {number}, step {again.steps}: {difference}")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        why = f"{type(error).__name__}: {error}"
        raise TraceError(f"{path}, line {number}, is not what a trace has there", why, "record it again") from error
    return Replayed(again.steps)


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError("a line is no object")
                yield number, line
    except (OSError, ValueError) as error:
        raise TraceError(f"{path} cannot be read as a trace", str(error), "record it again") from error


class _Replay:
    """An engine that is told by the lines of a trace what happens to it."""

    def __init__(self, header: dict[str, Any]) -> None:
        self.line: dict[str, Any] = {}
        self.steps = 0
        self._time = 0.0
        self._record: dict[str, Any] = {}
        runner, options = _Runner(self, header["sizes"]), dict(header["engine"])
        record_bytes = runner.save_pages(np.empty(0, np.int32)).shape[1]
        self.engine = Engine(
            runner,
            context_length=options.pop("context"),
            swap_bytes=options.pop("swap_pages") * record_bytes,
            eos_token_ids=(),
            clock=lambda: self._time,
            trace=self,
            **options,
        )

    @property
    def failed(self) -> dict[str, str]:
        """Messages of the requests that failed in this step."""
        found: dict[str, str] = self.line.get("failed", {})
        return found

    def forced(self, request_id: str, index: int) -> list[int]:
        """What the grammar of a sequence forced in this step."""
        return next((tokens for *who, tokens in self.line.get("forced", []) if who == [request_id, index]), [])

    def do(self, line: dict[str, Any]) -> str | None:
        """Do one line; returns how the engine differs."""
        self.line = line
        if "add" in line:
            self._time = line["at"]
            request = self._request(line)
            request.timeout = line["timeout"]  # nobody may ask for 0, but what is left of more may be that
            self.engine.add(request)
        elif "abort" in line:
            if not self.engine.abort(line["abort"]):
                return f"request {line['abort']!r} was aborted, and is not there"
        else:
            self._time = line["step"]
            self._record = {}
            if not self.engine.has_work:
                return "there was a step, and is nothing to do"
            self.engine.step()
            compared = ("failed", "undone") if line.get("undone") else (*line, *self._record)
            for key in compared:
                mine, recorded = (json.loads(json.dumps(side.get(key))) for side in (self._record, line))
                if mine != recorded:
                    return f"{key} was {recorded}, is {mine}"
            self.steps += 1
        return None

    def _request(self, line: dict[str, Any]) -> Request:
        names = ("chunk", "priority", "tenant", "salt")
        options: dict[str, Any] = {key: line[key] for key in names} | {"request_id": line["add"]}
        if "params" not in line:
            receive = _Receiver(self, line["add"])
            prepare = self.engine.prepare_pooling if line["pooling"] else self.engine.prepare_scoring
            return prepare(line["prompt"], receive, first=line["first"], **options)
        request = self.engine.prepare(line["prompt"], SamplingParams(**line["params"]), **options)
        request.end_ids = frozenset(line["ends"])
        request.detokenizer = _Texts(self, line["add"])
        request.matcher = _Matcher(self, line["add"]) if line.get("structured") else None
        return request

    # The engine's trace: keeps the last step.

    def add(self, request: Request) -> None:
        """Nothing to keep."""

    def abort(self, request_id: str) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        """Nothing to close."""

    def step(
        self, now: float, plan: Schedule, batch: Batch, outputs: list[StepOutput], fault: StepFault | None
    ) -> None:
        """Keep the record of a step."""
        self._record = step_record(now, plan, batch, outputs, fault)


class _Runner(NullRunner):
    """Checks the pages as the null device does, and fails where the recorded step was undone."""

    def __init__(self, replay: _Replay, sizes: dict[str, int]) -> None:
        super().__init__(**sizes)
        self._replay = replay
        self.sampler = _RecordedSampler(replay)

    def forward(self, sequences: list[PlanSequence], tokens: np.ndarray, logit_rows: np.ndarray) -> np.ndarray:
        replay = self._replay
        if replay.line.get("undone"):
            leads = [replay.engine.groups[name].lead for name in replay.failed]
            raise StepFault(leads, RecordedError(next(iter(replay.failed.values()), "")))
        super().forward(sequences, tokens, logit_rows[:0])
        return np.zeros((len(logit_rows), 1), np.float32)


class _RecordedSampler(Sampler):
    """Gives the tokens that the recorded step chose."""

    def __init__(self, replay: _Replay) -> None:
        super().__init__()
        self._replay = replay

    def sample(self, logits: np.ndarray, draws: Sequence[Draw], rows: Sequence[int] | None = None) -> Sampled:
        tokens = [token for _, _, token in self._replay.line["tokens"]]
        tokens = (tokens + [0] * len(draws))[: len(draws)]  # other counts show up when the records are compared
        return Sampled(np.array(tokens, np.int32), (None,) * len(draws))

    def logprobs(
        self, logits: np.ndarray, tokens: Sequence[int] | np.ndarray, top: int, rows: Sequence[int] | None = None
    ) -> list[TokenLogprobs | None]:
        return [TokenLogprobs(int(token), 0.0, 1, np.empty(0, np.int32), np.empty(0, np.float32)) for token in tokens]


class _Receiver:
    """Takes nothing, and fails where the recorded one did."""

    def __init__(self, replay: _Replay, request_id: str) -> None:
        self._replay, self._id = replay, request_id

    def __call__(self, position: int, results: np.ndarray) -> None:
        if self._id in self._replay.failed:
            raise RecordedError(self._replay.failed[self._id])


class _Recorded:
    """What belongs to one sequence, and does what the trace says with the last token that a step brought."""

    def __init__(self, replay: _Replay, request_id: str, index: int = 0) -> None:
        self._replay, self._id, self._index = replay, request_id, index
        self._samples = 0
        self._step = self._seen = 0

    def _takes_last(self) -> bool:
        """One token more; whether it is the step's last for this sequence. RecordedError where the request failed."""
        replay = self._replay
        if self._id in replay.failed:
            raise RecordedError(replay.failed[self._id])
        self._seen = self._seen + 1 if self._step == replay.steps else 1
        self._step = replay.steps
        return self._seen > len(replay.forced(self._id, self._index))

    def _is_in(self, key: str) -> bool:
        """Whether the step lists this sequence under `key`."""
        return [self._id, self._index] in self._replay.line.get(key, [])


class _Matcher(_Recorded):
    """A matcher without a grammar."""

    finished = False

    def fill(self, row: np.ndarray) -> None:
        """Nothing: the tokens are those of the trace."""

    def accept(self, token: int) -> None:
        """The text is complete where it was so in the trace."""
        self.finished = self._takes_last() and self._is_in("complete")

    def forced(self) -> list[int]:
        """What was forced in the trace."""
        return self._replay.forced(self._id, self._index)

    def copy(self) -> _Matcher:
        """That of the next sample."""
        self._samples += 1
        return _Matcher(self._replay, self._id, self._samples)


class _Texts(_Recorded):
    """A detokenizer without a tokenizer: a stop text is found, or it fails, where that was so in the trace."""

    text = ""
    found: str | None = None

    def fresh(self) -> _Texts:
        """That of the next sample."""
        self._samples += 1
        return _Texts(self._replay, self._id, self._samples)

    def push(self, token: int) -> str:
        """No text."""
        return self.finish() if self._takes_last() else ""

    def finish(self) -> str:
        """No text."""
        message = self._replay.failed.get(self._id)
        if message is not None:
            raise RecordedError(message)
        if self._is_in("stopped"):
            self.found = "recorded"
        return ""
