"""A conversation in a terminal: its messages, and what its commands do."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ..runtime.errors import HeddleError
from .sources import Answer, Source

STOPPED = "stopped"
"""The finish reason of an answer that was stopped here."""

SETTINGS = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "max_tokens", "min_tokens", "stop",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "bad_words", "ignore_eos",
)  # fmt: skip
"""Fields of `SamplingParams` that make sense for a conversation."""


@dataclasses.dataclass
class Conversation:
    """What was said so far, and with which settings the next answer is made."""

    source: Source
    system: str | None = None
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    turns: list[dict[str, str]] = dataclasses.field(default_factory=list)
    answers: list[Answer] = dataclasses.field(default_factory=list)
    left: bool = False  # whether a command asked to leave

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages as a chat template takes them, the system prompt first."""
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    async def say(self, text: str) -> AsyncGenerator[str, None]:
        """Pieces of the answer to `text`. One that is stopped stays as far as it came; an error leaves no trace."""
        self.turns.append({"role": "user", "content": text})
        answer, start = Answer(), time.perf_counter()
        kept = False
        try:
            async with aclosing(self.source.answer(self.messages, self.sampling, answer)) as pieces:
                async for piece in pieces:
                    answer.seconds = time.perf_counter() - start
                    if answer.first is None:
                        answer.first = answer.seconds
                    answer.text += piece
                    kept = True
                    yield piece
            kept = True
        except HeddleError:
            kept = False
            raise
        finally:
            answer.finish_reason = answer.finish_reason or STOPPED
            if kept:
                self.turns.append({"role": "assistant", "content": answer.text})
                self.answers.append(answer)
            else:
                self.turns.pop()

    def take_back(self) -> str:
        """Forget the last answer and its question, which is returned."""
        asked = [i for i, turn in enumerate(self.turns) if turn["role"] == "user"]
        if not asked:
            raise HeddleError("nothing has been said yet")
        question = self.turns[asked[-1]]["content"]
        del self.turns[asked[-1] :], self.answers[-1:]
        return question

    def summary(self) -> dict[str, Any]:
        """The conversation for a program."""
        answers = [dataclasses.asdict(a) | {"tokens_per_second": a.tokens_per_second} for a in self.answers]
        return {
            "model": self.source.name,
            "sampling": self.sampling,
            "messages": self.messages,
            "answers": answers,
        }


def help_text(talk: Conversation, _: str) -> str:
    """Show this."""
    width = max(map(len, COMMANDS))
    lines = [f"/{name:{width}}  {(function.__doc__ or '').strip()}" for name, function in COMMANDS.items()]
    keys = "Enter sends; Alt-Enter, or a \\ at the end of the line, begins a new line. Ctrl-C stops an answer, Ctrl-D leaves."
    return "\n".join([*lines, keys, "A text that begins with / is sent when another / stands in front of it."])


def reset(talk: Conversation, _: str) -> str:
    """Forget the conversation; the system prompt stays."""
    talk.turns.clear()
    talk.answers.clear()
    return "the conversation begins anew"


def system(talk: Conversation, text: str) -> str:
    """[TEXT|none] Show the system prompt, or set it."""
    if text:
        talk.system = None if text == "none" else text
    return f"system prompt: {talk.system}" if talk.system else "no system prompt"


def settings(talk: Conversation, text: str) -> str:
    """[NAME VALUE] Show the sampling settings, or change one; the value "default" takes it back."""
    if not text:
        return "\n".join(f"{name} = {value}" for name, value in talk.sampling.items()) or "all as the model has them"
    from ..runtime.parameters import check_keywords
    from ..runtime.sampling import SamplingParams

    name, _, given = text.partition(" ")
    check_keywords("/set", [name], SETTINGS)
    if not given.strip() or given.strip() == "default":
        talk.sampling.pop(name, None)
        return f"{name} is the default"
    try:
        value = json.loads(given)
    except ValueError:
        value = given.strip()
    SamplingParams(**{**talk.sampling, name: value})  # raises where it is out of range
    talk.sampling[name] = value
    return f"{name} = {value}"


def stats(talk: Conversation, _: str) -> str:
    """Show tokens and times of the last answer and of all."""
    if not talk.answers:
        return "no answer yet"
    last = talk.answers[-1]
    lines = [f"last answer: {figures(last)}"]
    tokens, seconds = sum(a.completion_tokens for a in talk.answers), sum(a.seconds for a in talk.answers)
    lines.append(f"all {len(talk.answers)}: {tokens} tokens in {seconds:.1f} s")
    return "\n".join(lines)


def save(talk: Conversation, name: str) -> str:
    """FILE Write the conversation as JSON."""
    if not name:
        raise HeddleError("/save needs the name of a file", fix="/save talk.json")
    path = Path(name).expanduser()
    try:
        path.write_text(json.dumps(talk.summary(), indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise HeddleError(f"cannot write {path}: {error.strerror}", fix="give another place") from error
    return f"{len(talk.messages)} messages written to {path}"


def load(talk: Conversation, name: str) -> str:
    """FILE Go on with a conversation that /save wrote."""
    path = Path(name).expanduser()
    try:
        messages = [
            {"role": str(m["role"]), "content": str(m["content"])} for m in json.loads(path.read_text())["messages"]
        ]
    except OSError as error:
        raise HeddleError(f"cannot read {path}: {error.strerror}", fix="/load talk.json") from error
    except (ValueError, TypeError, KeyError) as error:
        raise HeddleError(f"{path} is no conversation that /save wrote", str(error)) from error
    talk.system = next((m["content"] for m in messages if m["role"] == "system"), None)
    talk.turns = [m for m in messages if m["role"] != "system"]
    talk.answers = []
    return f"{len(messages)} messages read from {path}"


def leave(talk: Conversation, _: str) -> str:
    """Leave."""
    talk.left = True
    return ""


COMMANDS: dict[str, Callable[[Conversation, str], str]] = {
    "help": help_text,
    "reset": reset,
    "system": system,
    "set": settings,
    "stats": stats,
    "save": save,
    "load": load,
    "exit": leave,
}
"""Each takes the conversation and the rest of its line, and returns what to show. `/again` is the loop's own."""


def figures(answer: Answer) -> str:
    """Tokens and times of an answer in one line."""
    parts = []
    if answer.prompt_tokens is not None:
        cached = f" ({answer.cached_tokens} cached)" if answer.cached_tokens else ""
        parts.append(f"{answer.prompt_tokens} prompt tokens{cached}")
    parts.append(f"{answer.completion_tokens} tokens")
    if answer.first is not None:
        parts.append(f"first after {answer.first * 1000:.0f} ms")
    if (speed := answer.tokens_per_second) is not None:
        parts.append(f"{speed:.1f} tokens/s")
    return ", ".join([*parts, answer.finish_reason or ""])
