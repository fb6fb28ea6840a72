"""Text of tokens as they come, and the place where it ends.

Two steps of one pipeline. `IncrementalDecoder` turns tokens into pieces whose concatenation is exactly the decoding of
all tokens. `StopFilter` cuts the pieces at the first stop text and never lets out a part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"  # how an incomplete character decodes


class IncrementalDecoder:
    """Decodes token by token; what may still change is held back.

    Only a window of tokens is decoded: one token whose text is out, as the context that some decoders need (they strip
    a space at the start), and those after it. Held back are the last character while it is incomplete, and a run of
    byte tokens (`<0xE4>`), because an invalid byte at its end changes how the whole run decodes.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._window: list[int] = []
        self._sent = 0  # characters of the window's text that are out

    def push(self, token: int) -> str:
        """The text that is certain now and was not before."""
        if self._tokenizer.is_silent(token, self._skip):
            return ""
        self._window.append(token)
        if self._tokenizer.is_byte(token):
            return ""
        text = self._tokenizer.decode(self._window, self._skip)
        # Only the last character can be incomplete: those before it are followed by something else already.
        whole = not text.endswith(_REPLACEMENT)
        piece = self._release(text if whole else text[:-1])
        if whole:
            context = self._tokenizer.decode([token], self._skip)
            if context:
                self._window, self._sent = [token], len(context)
        return piece

    def finish(self) -> str:
        """The text that was still held back, with incomplete characters as U+FFFD."""
        return self._release(self._tokenizer.decode(self._window, self._skip)) if self._window else ""

    def _release(self, certain: str) -> str:
        piece = certain[self._sent :]
        self._sent = max(self._sent, len(certain))
        return piece


class StopFilter:
    """Passes text on until a stop text is complete.

    The stop text that is complete first counts (of two that end together, the longer one), so the result does not
    depend on how the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """The text that can go out now. Sets `found`, after which all text is dropped."""
        if self.found is not None:
            return ""
        text = self._held + piece
        hits = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if hits:
            _, at, self.found = min(hits)
            self._held = ""
            return text[:at]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text that was held back and turned out to be no stop text."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class Texts(Protocol):
    """Tokens of one request in, text out, until a stop text is found."""

    @property
    def text(self) -> str: ...

    @property
    def found(self) -> str | None: ...

    def push(self, token: int) -> str: ...

    def finish(self) -> str: ...

    def fresh(self) -> Texts: ...


class Detokenizer:
    """Tokens of one request in, text out: decoding, then stop texts."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), skip_special_tokens: bool = True) -> None:
        self._options = tokenizer, stops, skip_special_tokens
        self._decoder = IncrementalDecoder(tokenizer, skip_special_tokens)
        self._filter = StopFilter(stops)
        self._pieces: list[str] = []

    def fresh(self) -> Detokenizer:
        """Another one, for another text that ends by the same stop texts."""
        return Detokenizer(*self._options)

    @property
    def text(self) -> str:
        """All text that went out so far."""
        return "".join(self._pieces)

    @property
    def found(self) -> str | None:
        """The stop text that ended the output, None before."""
        return self._filter.found

    def push(self, token: int) -> str:
        """The text that can go out now that `token` is there."""
        return self._out(self._filter.push(self._decoder.push(token)))

    def finish(self) -> str:
        """The text that was held back; no token follows. It may complete a stop text, which sets `found`."""
        return self._out(self._filter.push(self._decoder.finish()) + self._filter.finish())

    def _out(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
        return piece
