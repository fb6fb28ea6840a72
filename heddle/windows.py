"""A text as windows of tokens to be scored: reading it, its tokens, what every window begins with, which tokens count."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .llm import LLM
from .runtime.errors import RequestError
from .runtime.tokenizer import Tokenizer

DEFAULT_WINDOW = 2048
"""Tokens of a window at most where nobody says how many."""


@dataclasses.dataclass(frozen=True)
class Window:
    """Tokens `begin` to `end` of a text; those from `first` on are scored, the others are context."""

    begin: int
    end: int
    first: int


@dataclasses.dataclass(frozen=True)
class Text:
    """A text as a model sees it.

    ids: int32[n], the tokens of the text, without a frame of special tokens.
    bytes: its size in UTF-8.
    prefix: tokens in front of every window (a BOS, as a rule, or nothing); they are never scored.
    """

    ids: np.ndarray
    bytes: int
    prefix: tuple[int, ...]

    def tokens(self, window: Window) -> np.ndarray:
        """int32[m]: the prefix and the tokens of `window`."""
        return np.concatenate([np.asarray(self.prefix, np.int32), self.ids[window.begin : window.end]])


def read_text(path: str | Path) -> str:
    """The text in a file, byte for byte. RequestError where there is none: a missing, empty or binary file."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read", error.strerror or str(error), "give a text file in UTF-8"
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} is not a text in UTF-8",
            f"byte {error.start} is 0x{error.object[error.start]:02x}: {error.reason}",
            "convert it (iconv -t utf-8), or give another file",
        ) from error
    if "\0" in text:
        raise RequestError(
            f"{path} is not a text", f"character {text.index(chr(0))} is NUL: the file is binary", "give a text file"
        )
    if not text:
        raise RequestError(f"{path} is empty", "there is nothing to score", "give a text of a few thousand words")
    return text


def frame(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts in front of a text; empty for many models."""
    plain = tokenizer.encode("a", add_special_tokens=False)
    framed = tokenizer.encode("a")
    starts = (i for i in range(len(framed)) if framed[i : i + len(plain)] == plain)
    return tuple(framed[: next(starts, 0)])


def tokenize(llm: LLM, text: str, prefix: Sequence[int] | None = None, max_tokens: int | None = None) -> Text:
    """The tokens of `text`, cut to its first `max_tokens`. `prefix` None takes the tokenizer's own frame.

    Special tokens written out in the text become special tokens, as in a prompt.
    """
    tokenizer = llm.needed_tokenizer()
    ids = np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32)
    if max_tokens is not None:
        if max_tokens < 1:
            raise RequestError(f"max_tokens is {max_tokens}; allowed is 1 or more (tokens of the text)")
        if max_tokens < len(ids):
            ids = ids[:max_tokens]
            text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    lead = frame(tokenizer) if prefix is None else tuple(int(i) for i in prefix)
    known = llm.runner.info.vocab_size
    for token in lead:
        if not 0 <= token < known:
            raise RequestError(f"the leading token {token} is out of range; the model knows 0 to {known - 1}")
    return Text(ids, len(text.encode("utf-8", "replace")), lead)


@dataclasses.dataclass(frozen=True)
class Windows:
    """All windows of a text: `size` tokens each at most, the prefix included, `stride` tokens apart."""

    size: int
    stride: int
    windows: tuple[Window, ...]

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return sum(window.end - window.first for window in self.windows)

    @property
    def positions(self) -> np.ndarray:
        """int64[scored]: which tokens of the text are scored, in order."""
        return np.concatenate([np.arange(window.first, window.end) for window in self.windows])


def windows_of(text: Text, context: int, window: int | None = None, stride: int | None = None) -> Windows:
    """The windows of a text. None takes the model's `context` up to 2048 tokens, and half a window as stride.

    RequestError for sizes that cannot be, and where less than two tokens would be scored.
    """
    prefix = len(text.prefix)
    least = prefix + 1 if prefix else 2
    size = min(context, DEFAULT_WINDOW) if window is None else window
    if not least <= size <= context:
        raise RequestError(
            f"window is {size}; allowed are {least} to {context} tokens",
            "a window needs a token to score and one before it, and must fit the model's context",
            "choose another window",
        )
    room = size - prefix
    step = min(room, max(1, size // 2)) if stride is None else stride
    if not 1 <= step <= room:
        raise RequestError(
            f"stride is {step}; allowed are 1 to {room} tokens",
            f"a window has room for {room} tokens of the text, and none may be left out between two windows",
            "choose a smaller stride",
        )
    windows = Windows(size, step, tuple(cut(len(text.ids), room, step, prefix > 0)))
    if windows.scored < 2:
        raise RequestError(
            f"of the {len(text.ids)} tokens of the text {windows.scored} can be scored; at least 2 are needed",
            "" if prefix else "the first token has nothing before it that could predict it",
            "give a longer text",
        )
    return windows


def cut(tokens: int, room: int, stride: int, prefixed: bool) -> Iterator[Window]:
    """Windows of at most `room` tokens, each `stride` further on, that score every token of a text at most once.

    A token is scored in the first window that holds it. The first token of a window has nothing before it unless there is
    a prefix: the text's first one is then never scored, and where `stride` is `room`, neither is that of any window.
    """
    done = begin = 0
    while done < tokens:
        end = min(begin + room, tokens)
        first = max(done, begin if prefixed else begin + 1)
        if first < end:
            yield Window(begin, end, first)
        done, begin = end, begin + stride
