"""Problems with a model, collected rather than raised one by one, so that a user sees all of them at once."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

from ..runtime.errors import HeddleError

Severity = Literal["error", "warning", "note"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """One finding: `what` is wrong, `why` that matters, how to `fix` it. Only errors prevent compilation."""

    severity: Severity
    what: str
    why: str = ""
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}; {self.fix}" if self.fix else text


class ModelError(HeddleError, ValueError):
    """A model that cannot be compiled. `problems` holds every reason; the message lists them all."""

    def __init__(self, subject: str, problems: Sequence[Problem]) -> None:
        self.subject = subject
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            super().__init__(f"{subject}: {self.problems[0].what}", self.problems[0].why, self.problems[0].fix)
        else:
            lines = [f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1)]
            super().__init__("\n".join([f"{subject} has {len(self.problems)} problems:", *lines]))

    def __reduce__(self) -> tuple[type[ModelError], tuple[str, tuple[Problem, ...]]]:  # type: ignore[override]
        return type(self), (self.subject, self.problems)


def error(what: str, why: str = "", fix: str = "") -> Problem:
    """A problem that prevents compilation."""
    return Problem("error", what, why, fix)


def raise_errors(subject: str, problems: Iterable[Problem]) -> None:
    """Raise one ModelError with all problems of severity `error`, if there are any."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ModelError(subject, errors)


def nearest(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> str:
    """A hint `did you mean "a" or "b"`, empty where nothing is near: at least `cutoff` of the letters are the same."""
    matches = difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)
    return "did you mean " + " or ".join(f'"{match}"' for match in matches) if matches else ""
