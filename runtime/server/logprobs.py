"""Log probabilities as answers have them: chat's style, that of completions, and vLLM's for prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..outputs import Logprob, LogprobTable
from .schema.chat import TokenLogprob, TopLogprob
from .schema.completions import CompletionLogprobs

LOWEST = -9999.0
"""What stands for the logarithm of 0, which JSON does not have; OpenAI's."""


def chat_logprobs(tables: Iterable[LogprobTable], top: int) -> list[TokenLogprob]:
    """One entry a token, with the `top` most likely ones."""
    found: list[TokenLogprob] = []
    for table in tables:
        entries = [_entry(entry) for entry in table.values()]
        found.append({**entries[0], "top_logprobs": _ranked(table, entries)[:top]})
    return found


def _ranked(table: LogprobTable, entries: list[TopLogprob]) -> list[TopLogprob]:
    """The most likely first. The chosen token stands first in a table, wherever its rank is."""
    pairs = sorted(zip(table.values(), entries, strict=True), key=lambda pair: pair[0].rank or 0)
    return [entry for _, entry in pairs]


def _entry(logprob: Logprob) -> TopLogprob:
    text = logprob.decoded_token or ""
    return {"token": text, "logprob": finite(logprob.logprob), "bytes": list(text.encode())}


class CompletionTexts:
    """Log probabilities of one text in the style of completions, piece by piece. Offsets count characters."""

    def __init__(self, top: int) -> None:
        self._top, self._offset = top, 0

    def add(self, tables: Sequence[LogprobTable | None], first: str = "") -> CompletionLogprobs:
        """The next tokens. A table that is None is that of a prompt's first token, whose text is `first`."""
        found: CompletionLogprobs = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for table in tables:
            text, logprob = first, None
            top: dict[str, float] | None = None
            if table is not None:
                chosen = next(iter(table.values()))
                text, logprob = chosen.decoded_token or "", finite(chosen.logprob)
                ranked = sorted(table.values(), key=lambda entry: entry.rank or 0)
                top = {}
                for entry in ranked[: self._top]:
                    top.setdefault(entry.decoded_token or "", finite(entry.logprob))
            found["tokens"].append(text)
            found["token_logprobs"].append(logprob)
            found["top_logprobs"].append(top)
            found["text_offset"].append(self._offset)
            self._offset += len(text)
        return found


def prompt_logprobs(tables: Sequence[LogprobTable | None]) -> list[dict[str, Any] | None]:
    """Tables by token id, as vLLM's servers give them."""
    return [
        None
        if table is None
        else {
            str(token): {"logprob": finite(e.logprob), "rank": e.rank, "decoded_token": e.decoded_token}
            for token, e in table.items()
        }
        for table in tables
    ]


def finite(logprob: float) -> float:
    """A number that JSON has."""
    return max(float(logprob), LOWEST)
