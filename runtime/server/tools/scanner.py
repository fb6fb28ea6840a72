"""JSON followed as it comes, so that a piece can go on to a client before the rest is there."""

from __future__ import annotations

import re

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SPACES = re.compile(r"[ \t\r\n]+")
_NUMBER_PART = re.compile(r"[-+.0-9eE]+")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_LITERALS = ("true", "false", "null")
_CLOSING = {"{": "}", "[": "]"}


class JsonScanner:
    """Follows one JSON value (RFC 8259) through pieces of text; does not build it.

    `done` after its last character. `broken` at the first character that no JSON text can have there. A number that stands
    alone is done at the first character behind it.
    """

    def __init__(self) -> None:
        self.done = self.broken = False
        self._open: list[str] = []
        self._state = "value"
        self._word = ""  # of a literal or a number
        self._is_key = False
        self._hex = 0  # digits of \uXXXX that are missing

    def scan(self, text: str, at: int) -> int:
        """Read on in `text` from `at`; returns where the next character to read stands, or the broken one."""
        while at < len(text) and not self.done and not self.broken:
            if self._state == "string":
                at = self._string(text, at)
            elif self._state == "escape":
                at = self._escape(text[at], at)
            elif self._state in ("literal", "number"):
                at = self._in_word(text, at)
            elif spaces := _SPACES.match(text, at):
                at = spaces.end()
            else:
                at = self._between(text[at], at)
        return at

    def _between(self, char: str, at: int) -> int:
        """A character outside of strings, numbers and literals."""
        state, opened = self._state, self._open[-1] if self._open else ""
        if state in ("value", "first value"):
            if char in "{[":
                self._open.append(char)
                self._state = "first key" if char == "{" else "first value"
            elif char == '"':
                self._begin_string(key=False)
            elif char == "-" or char in "0123456789" or char in "tfn":
                self._state, self._word = "literal" if char in "tfn" else "number", ""
                return at
            elif char == "]" and state == "first value":
                self._close()
            else:
                self.broken = True
        elif state in ("key", "first key") and char == '"':
            self._begin_string(key=True)
        elif state == "colon" and char == ":":
            self._state = "value"
        elif state == "next" and char == ",":
            self._state = "key" if opened == "{" else "value"
        elif opened and char == _CLOSING[opened] and state in ("next", "first key"):
            self._close()
        else:
            self.broken = True
        return at if self.broken else at + 1

    def _begin_string(self, key: bool) -> None:
        self._is_key, self._state = key, "string"

    def _close(self) -> None:
        self._open.pop()
        self._end_value()

    def _end_value(self) -> None:
        self._state, self.done = "next", not self._open

    def _string(self, text: str, at: int) -> int:
        if plain := _PLAIN.match(text, at):
            return plain.end()
        if text[at] == "\\":
            self._state = "escape"
        elif text[at] != '"':
            self.broken = True
            return at
        elif self._is_key:
            self._state = "colon"
        else:
            self._end_value()
        return at + 1

    def _escape(self, char: str, at: int) -> int:
        if self._hex and char in "0123456789abcdefABCDEF":
            self._hex -= 1
        elif not self._hex and char == "u":
            self._hex = 4
        elif self._hex or char not in '"\\/bfnrt':
            self.broken = True
            return at
        if not self._hex:
            self._state = "string"
        return at + 1

    def _in_word(self, text: str, at: int) -> int:
        if self._state == "literal":
            word = self._word + text[at]
            self.broken = not any(literal.startswith(word) for literal in _LITERALS)
            if self.broken:
                return at
            self._word = word
            if word in _LITERALS:
                self._end_value()
            return at + 1
        if part := _NUMBER_PART.match(text, at):
            self._word += part.group()
            return part.end()
        self.broken = _NUMBER.fullmatch(self._word) is None
        if not self.broken:
            self._end_value()
        return at
