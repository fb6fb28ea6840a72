"""What a pass is: a frozen dataclass of options, applied to a module, that records what it matched and why it did not."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from ..schedules.compat import ir


@dataclasses.dataclass(frozen=True)
class Record:
    """One decision of a pass at one place. `reason` is the first precondition that failed, empty where it matched."""

    phase: str
    function: str
    site: str
    matched: bool
    reason: str = ""


@dataclasses.dataclass
class PassLog:
    """Everything the passes of one compilation decided, in order; `explain` prints it."""

    records: list[Record] = dataclasses.field(default_factory=list)
    phase: str = ""
    function: str = ""

    def matched(self, site: str) -> None:
        """Note a rewrite."""
        self.records.append(Record(self.phase, self.function, site, True))

    def missed(self, site: str, reason: str) -> None:
        """Note a candidate that was left alone."""
        self.records.append(Record(self.phase, self.function, site, False, reason))

    def of(self, phase: str) -> list[Record]:
        """The records of one phase."""
        return [r for r in self.records if r.phase == phase]


class ModulePass(Protocol):
    """A named rewrite of a module. `name` is the phase's name in IR dumps, logs and timings."""

    @property
    def name(self) -> str: ...

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        """The rewritten module. Must leave `mod` unchanged and well-formed."""
        ...
