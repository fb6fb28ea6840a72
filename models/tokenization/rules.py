"""The parts of a tokenizer.json (https://huggingface.co/docs/tokenizers): plain dictionaries, put together by the readers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..problems import ModelError, error

Part = dict[str, Any]
"""A normalizer, pre-tokenizer, post-processor, decoder or model: `{"type": ..., ...}`."""


@dataclasses.dataclass
class Rules:
    """A tokenizer: what becomes of a text. `vocabulary` has the ids of the model's tokens, `added` those found before it."""

    model: Part
    normalizer: Part | None = None
    pre_tokenizer: Part | None = None
    post_processor: Part | None = None
    decoder: Part | None = None
    added: list[Part] = dataclasses.field(default_factory=list)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Ids by token: those of the model, and the added ones."""
        vocab = self.model["vocab"]
        ids = dict(vocab) if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
        return ids | {token["content"]: token["id"] for token in self.added}

    def to_json(self) -> bytes:
        """The file."""
        parts = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": self.added}
        for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model"):
            parts[name] = getattr(self, name)
        return json.dumps(parts, ensure_ascii=False, allow_nan=False).encode()


def sequence(name: str, parts: Sequence[Part]) -> Part | None:
    """`parts` one after the other; `name` is what the type calls its parts, such as "normalizers"."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return {"type": "Sequence", name: list(parts)}


def added_token(number: int, content: str, *, special: bool, normalized: bool = False, **flags: bool) -> Part:
    """A token that is found in the text before anything else happens to it; `special`: no text of its own."""
    sides = {name: bool(flags.get(name, False)) for name in ("single_word", "lstrip", "rstrip")}
    return {"id": number, "content": content, **sides, "normalized": normalized, "special": special}


def replace(pattern: str, content: str, *, regex: bool = False) -> Part:
    """A normalizer or decoder that puts `content` for every match."""
    return {"type": "Replace", "pattern": {"Regex" if regex else "String": pattern}, "content": content}


def split(pattern: str, *, regex: bool = True) -> Part:
    """A pre-tokenizer that makes every match of `pattern`, and what is between two of them, a piece of its own."""
    return {
        "type": "Split",
        "pattern": {"Regex" if regex else "String": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def frame(before: Iterable[tuple[str, int]], after: Iterable[tuple[str, int]]) -> Part | None:
    """Special tokens (with their ids) that stand around a text."""
    before, after = list(before), list(after)
    if not before and not after:
        return None

    def place(tokens: list[tuple[str, int]], kind: int) -> list[Part]:
        return [{"SpecialToken": {"id": token, "type_id": kind}} for token, _ in tokens]

    def text(name: str, kind: int) -> Part:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [*place(before, 0), text("A", 0), *place(after, 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), *place(after, 1)],
        "special_tokens": {t: {"id": t, "ids": [number], "tokens": [t]} for t, number in [*before, *after]},
    }


def all_merges(ranked: Iterable[str]) -> list[list[str]]:
    """Merges of a BPE that joins any two neighbours whose concatenation is a token, the best token first.

    `ranked` are the tokens in this order. SentencePiece and tiktoken work like this; tokenizer.json lists pairs, so every
    way to cut a token in two tokens is one.
    """
    ranked = list(ranked)
    parts = frozenset(ranked)
    return [
        [text[:i], text[i:]] for text in ranked for i in range(1, len(text)) if text[:i] in parts and text[i:] in parts
    ]


def broken(
    what: str, why: str = "", fix: str = "take the tokenizer's files from the model's origin again"
) -> ModelError:
    """A tokenizer that cannot be read."""
    return ModelError("the tokenizer", [error(what, why, fix)])


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Values of the wrong type or form, which files of anybody's making may hold anywhere, as one ModelError."""
    try:
        yield
    except ModelError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as exception:
        raise broken(what, f"{type(exception).__name__}: {exception}") from exception
