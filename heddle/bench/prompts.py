"""What is asked: seeded random prompts, parts of a text, or prompts and conversations from a file of JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..runtime.errors import HeddleError

_TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand part "
    "place case week company system program question work government number night point home water room mother area money "
    "story fact month lot right study book eye job word business issue side kind head house service friend father power hour "
    "game line end member law car city community name president team minute idea body information back parent face others "
    "level office door health person art war history party result change morning reason research girl guy moment air teacher "
    "force education foot boy age policy music market sense nation plan college interest death experience effect use class "
    "control field development role effort rate heart drug show leader light voice wife police mind price report decision son "
    "view relationship town road arm difference value building action season society tax director position player record "
    "paper space ground form event official matter center couple site project activity star table need court oil situation "
    "cost industry figure street image phone data picture practice piece land product doctor wall worker news test movie north"
)
WORDS = tuple(_TEXT.split())
"""Words that most tokenizers have as one token each."""

USER = ("human", "user")


class Coder(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


@dataclasses.dataclass(frozen=True)
class Ask:
    """A prompt (a text, or the messages of a conversation), and how many tokens to generate at most."""

    prompt: str | list[dict[str, Any]]
    max_tokens: int


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and answers; each is drawn evenly from (1 - spread) to (1 + spread) times the mean. `common` tokens
    more stand before every prompt and are the same in all."""

    prompt: int = 512
    answer: int = 128
    spread: float = 0.0
    common: int = 0

    def draw(self, rng: np.random.Generator, mean: int, count: int) -> list[int]:
        """`count` lengths, each at least 1."""
        low, high = max(1, int(mean * (1 - self.spread))), max(1, int(mean * (1 + self.spread)))
        return [int(n) for n in rng.integers(low, high + 1, count)]


def random_asks(count: int, lengths: Lengths, seed: int, coder: Coder | None = None) -> list[Ask]:
    """Prompts of random words: as many tokens as `coder` counts, or (None) as many words."""
    rng = np.random.default_rng(seed)
    common = _words(rng, lengths.common, coder)
    sizes = lengths.draw(rng, lengths.prompt, count)
    answers = lengths.draw(rng, lengths.answer, count)
    heads = [f"{common} " if common else ""] * count
    return [Ask(head + _words(rng, n, coder), m) for head, n, m in zip(heads, sizes, answers, strict=True)]


def random_ids(count: int, lengths: Lengths, seed: int, vocab_size: int) -> list[tuple[Sequence[int], int]]:
    """Prompts of random token ids with the most tokens to generate: for a model without a server around it."""
    rng = np.random.default_rng(seed)
    common = rng.integers(0, vocab_size, lengths.common).tolist()
    sizes = lengths.draw(rng, lengths.prompt, count)
    answers = lengths.draw(rng, lengths.answer, count)
    return [(common + rng.integers(0, vocab_size, n).tolist(), m) for n, m in zip(sizes, answers, strict=True)]


def text_asks(path: Path, count: int, lengths: Lengths, seed: int, coder: Coder | None = None) -> list[Ask]:
    """Parts of a text that begin at random words of it."""
    rng = np.random.default_rng(seed)
    words = _read(path).split()
    if not words:
        raise HeddleError(f"{path} holds no words", "prompts are cut out of it", "give a file with text in UTF-8")
    found = []
    sizes, answers = lengths.draw(rng, lengths.prompt, count), lengths.draw(rng, lengths.answer, count)
    for size, answer in zip(sizes, answers, strict=True):
        start = int(rng.integers(len(words)))
        part = " ".join(words[(start + i) % len(words)] for i in range(size))  # a word has a token or more
        found.append(Ask(_cut(part, size, coder), answer))
    return found


def json_asks(path: Path, count: int, answer: int | None, seed: int, coder: Coder | None = None) -> list[Ask]:
    """`count` of the prompts in a file, in an order by `seed`, again and again where it has fewer.

    Lines of JSON, or one list: objects with `prompt` or `messages` (and `max_tokens` or `output_tokens`), or conversations as
    ShareGPT has them, of which the first question is asked. `answer` overrides lengths; without any an answer gets as
    many tokens as it has in the file, else 128.
    """
    text = _read(path)
    try:
        entries = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(x) for x in text.split("\n") if x.strip()]
        )
    except ValueError as error:
        raise HeddleError(f"{path} is not JSON", str(error), "give lines of JSON, or one list") from error
    found = [ask for entry in entries for ask in _of_entry(entry, answer, coder)]
    if not found:
        raise HeddleError(
            f"{path} has no prompts", "no entry has prompt, messages, or a conversation that begins with a question"
        )
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[order[i % len(found)]] for i in range(count)]


def _of_entry(entry: Any, answer: int | None, coder: Coder | None) -> Iterator[Ask]:
    if not isinstance(entry, Mapping):
        return
    most = answer or entry.get("max_tokens") or entry.get("output_tokens")
    if isinstance(entry.get("prompt"), str):
        yield Ask(entry["prompt"], int(most or 128))
    elif isinstance(entry.get("messages"), list):
        yield Ask(entry["messages"], int(most or 128))
    elif isinstance(turns := entry.get("conversations"), list) and turns and turns[0].get("from") in USER:
        reply = turns[1]["value"] if len(turns) > 1 else ""
        spoken = len(coder.encode(reply, False) if coder else reply.split())
        yield Ask(turns[0]["value"], int(most or spoken or 128))


def _words(rng: np.random.Generator, count: int, coder: Coder | None) -> str:
    return _cut(" ".join(WORDS[i] for i in rng.integers(0, len(WORDS), count)), count, coder)


def _cut(text: str, tokens: int, coder: Coder | None) -> str:
    """The beginning of `text` that has this many tokens (one more or fewer where a cut changes how they are found)."""
    if coder is None:
        return text
    ids = coder.encode(text, False)
    return coder.decode(ids[:tokens], False) if len(ids) > tokens else text


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HeddleError(f"{path} cannot be read", str(error), "give a file in UTF-8") from error
