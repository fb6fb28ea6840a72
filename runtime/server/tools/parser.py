"""How tool parsers are written: reading code that runs on until the text is used up, and goes on when more has come.

A format is a generator, `read`, of plain reading steps: text until a marker, spaces, a call. A step that needs more text
than there is yields. What turns out to be no call goes out as content; no character is read more than twice.
"""

from __future__ import annotations

import abc
import json
import re
from collections.abc import Collection, Generator, Iterable
from typing import TypeVar

from ...detokenize import overlap
from .events import Call, CallArguments, CallBegin, Content, Event, new_id
from .scanner import JsonScanner

T = TypeVar("T")
Reading = Generator[None, None, T]
"""A step of reading: it yields where it needs more text, and returns a T."""

NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_NAME_KEY = "name"
_ARGUMENT_KEYS = ("arguments", "parameters")
_OTHER_KEYS = ("type", "id")


class _NoCallError(Exception):
    """What looked like a call is none; `_at` stands at the first character that shows it."""


class ToolParser(abc.ABC):
    """Finds the calls in the text of one answer.

    `push` takes the next piece of text and returns what is certain by it, `finish` the rest. The events do not depend on
    how the text is cut, except for the pieces that content and arguments come in. Spaces before calls are dropped.

    Arguments go out as they come, so those that turn out to be broken JSON are out already: the rest follows as it was
    written, and `broken` has the call's whole text, which `parse` returns as content instead.
    """

    id_length: int | None = None
    closing: str | None = None  # ends a call whatever is in it

    def __init__(self, names: Collection[str] | None = None) -> None:
        """`names` are the functions there are, for formats in which an answer may look like a call; None: not known."""
        self.names = names
        self.broken: dict[int, str] = {}
        self.calls = 0  # that have begun
        self._events: list[Event] = []
        self._text = ""
        self._at = 0  # of the next character to read in _text
        self._mark = 0  # where what may be a call begins
        self._spaces = ""  # of the content so far, at its end
        self._ended = False
        self._reading = self._read_all()
        next(self._reading)

    def push(self, text: str) -> list[Event]:
        """What is certain now and was not before."""
        self._text = self._text[self._mark :] + text
        self._at, self._mark = self._at - self._mark, 0
        return self._go_on()

    def finish(self) -> list[Event]:
        """The rest, when the answer has ended."""
        self._ended = True
        return self._go_on()

    @abc.abstractmethod
    def read(self) -> Reading[None]:
        """Reads the answer by the steps below, to its end."""

    # Steps. Each leaves `_at` behind what it has read.

    def until(self, *markers: str) -> Reading[str]:
        """Content up to the first of `markers`, which is read and returned ("" at the end) and begins what may be a call."""
        while True:
            self._mark = self._at
            hits = [(at, marker) for marker in markers if (at := self._text.find(marker, self._at)) >= 0]
            if hits:
                at, marker = min(hits)
                self._content(self._text[self._at : at])
                self._mark, self._at = at, at + len(marker)
                return marker
            keep = 0 if self._ended else max((overlap(self._text[self._at :], marker) for marker in markers), default=0)
            self._content(self._text[self._at : len(self._text) - keep])
            self._mark = self._at = len(self._text) - keep
            if self._ended:
                return ""
            yield

    def spaces(self) -> Reading[None]:
        """White space, if there is any."""
        while (yield from self._some()) and self._text[self._at].isspace():
            self._at += 1

    def follows(self, literal: str) -> Reading[bool]:
        """Whether `literal` comes next; it is read then, and else nothing is."""
        while not self._text.startswith(literal, self._at):
            if self._ended or not literal.startswith(self._text[self._at :]):
                return False
            yield
        self._at += len(literal)
        return True

    def next_is(self, char: str) -> Reading[bool]:
        """Whether `char` comes next; it is not read."""
        return (yield from self._some()) and self._text[self._at] == char

    def word(self, pattern: re.Pattern[str]) -> Reading[str]:
        """The longest text that `pattern` matches here, "" for none."""
        while True:
            match = pattern.match(self._text, self._at)
            if self._ended or (match.end() if match else self._at) < len(self._text):
                self._at = match.end() if match else self._at
                return match.group() if match else ""
            yield

    def call(self, strict: bool = False) -> Reading[bool]:
        """A call as a JSON object; False where there is none, and all from the mark on is content.

        `strict` takes only an object with the keys of a call that names a known function and has arguments.
        """
        return (yield from self._try(self._object(strict)))

    def named_call(self, name: str) -> Reading[bool]:
        """The call of a function whose name has been read, from its arguments on; else as `call`."""
        return (yield from self._try(self._arguments(name)))

    def go_back(self) -> None:
        """What was read after the last call is to be read again."""
        self._at = self._mark

    def give_up(self) -> None:
        """All from the mark on is content."""
        self._content(self._text[self._mark : self._at])
        self._mark = self._at

    # How the steps work.

    def _read_all(self) -> Reading[None]:
        yield from self.read()
        yield from self.until()  # what the format leaves is content
        while True:
            yield

    def _try(self, reading: Reading[None]) -> Reading[bool]:
        try:
            yield from reading
        except _NoCallError:
            self.give_up()
            return False
        self._mark = self._at
        return True

    def _go_on(self) -> list[Event]:
        next(self._reading)
        if self._ended and self._spaces and not self.calls:
            self._events.append(Content(self._spaces))
            self._spaces = ""
        events, self._events = self._events, []
        return events

    def _some(self) -> Reading[bool]:
        """Waits for a character; False at the end of the answer."""
        while self._at == len(self._text):
            if self._ended:
                return False
            yield
        return True

    def _content(self, text: str) -> None:
        """Content goes out but for the spaces at its end, which may stand before a call."""
        text = self._spaces + text
        kept = text.rstrip()
        self._spaces = text[len(kept) :]
        if kept:
            self._events.append(Content(kept))

    def _begin(self, name: str) -> int:
        index = self.calls
        self.calls += 1
        self._spaces = ""
        self._events.append(CallBegin(index, new_id(self.id_length), name))
        return index

    def _object(self, strict: bool) -> Reading[None]:
        if not (yield from self.follows("{")):
            raise _NoCallError
        name: str | None = None
        held: str | None = None  # arguments that came before the name
        first = self.calls
        while True:
            try:
                yield from self.spaces()
                key = yield from self._parsed()
                yield from self.spaces()
                if not isinstance(key, str) or not (yield from self.follows(":")):
                    raise _NoCallError
                yield from self.spaces()
                if key in _ARGUMENT_KEYS and self.calls == first and held is None:
                    if name is None:
                        held = yield from self._whole_arguments()
                    else:
                        yield from self._arguments(name)
                elif key == _NAME_KEY and name is None:
                    given = yield from self._parsed()
                    if not isinstance(given, str) or not given or (strict and self.names and given not in self.names):
                        raise _NoCallError
                    name = given
                elif strict and key not in _OTHER_KEYS:
                    raise _NoCallError
                else:
                    yield from self._value()
                yield from self.spaces()
                if (yield from self.follows(",")):
                    continue
                if not (yield from self.follows("}")):
                    raise _NoCallError
            except _NoCallError:
                if self.calls == first:
                    raise
            break  # with its arguments out, a call is one whatever comes behind them
        if self.calls == first:
            if name is None or (strict and held is None):
                raise _NoCallError
            self._events.append(CallArguments(self._begin(name), held or "{}"))

    def _arguments(self, name: str) -> Reading[None]:
        """The arguments of a call, which begins here: an object goes out as it comes."""
        if not (yield from self._some()):
            raise _NoCallError
        if self._text[self._at] != "{":
            text = yield from self._whole_arguments()
            self._events.append(CallArguments(self._begin(name), text))
            return
        index = self._begin(name)
        try:
            yield from self._value(index)
        except _NoCallError:
            yield from self._rest(index)

    def _rest(self, index: int) -> Reading[None]:
        """What follows a break in arguments that are out in part: it goes after them, up to the closing marker."""
        while True:
            end = self._text.find(self.closing, self._at) if self.closing else -1
            keep = overlap(self._text[self._at :], self.closing) if self.closing and not self._ended else 0
            stop = end if end >= 0 else len(self._text) - keep
            if stop > self._at:
                self._events.append(CallArguments(index, self._text[self._at : stop]))
            self._at = stop
            if end >= 0 or self._ended:
                break
            yield
        closed = self.closing if self.closing and end >= 0 else ""
        self.broken[index] = self._text[self._mark : self._at] + closed

    def _whole_arguments(self) -> Reading[str]:
        """Arguments that go out whole: an object, one that is written as a text, or null for none."""
        text = yield from self._value()
        value = text if text.startswith("{") else _loads(text)
        if value is None:
            return "{}"
        if not isinstance(value, str) or not _is_object(value):
            raise _NoCallError
        return value

    def _parsed(self) -> Reading[object]:
        """A string or a number, read; None for anything that is no plain value."""
        text = yield from self._value()
        return None if text[0] in "{[" else _loads(text)

    def _value(self, index: int | None = None) -> Reading[str]:
        """One JSON value as it is written; its pieces go out as arguments of call `index`."""
        scanner, begin = JsonScanner(), self._at - self._mark
        while True:
            more = yield from self._some()
            start = self._at
            self._at = scanner.scan(self._text, self._at)
            if index is not None and self._at > start:
                self._events.append(CallArguments(index, self._text[start : self._at]))
            if scanner.broken or not more:
                raise _NoCallError
            if scanner.done:
                return self._text[self._mark + begin : self._at]


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:  # a number with more digits than Python converts
        raise _NoCallError from error


def _is_object(text: str) -> bool:
    scanner, text = JsonScanner(), text.strip()
    return text.startswith("{") and scanner.scan(text, 0) == len(text) and scanner.done


def parse(parser: ToolParser, text: str) -> tuple[str, list[Call]]:
    """A whole answer: its content, and its calls. A call whose arguments are no JSON object is content."""
    content: list[tuple[int, str]] = []  # by place
    begun: dict[int, tuple[int, CallBegin]] = {}
    arguments: dict[int, list[str]] = {}
    events: Iterable[Event] = [*parser.push(text), *parser.finish()]
    for place, event in enumerate(events):
        if isinstance(event, Content):
            content.append((place, event.text))
        elif isinstance(event, CallBegin):
            begun[event.index], arguments[event.index] = (place, event), []
        else:
            arguments[event.index].append(event.text)
    content += [(begun[index][0], raw) for index, raw in parser.broken.items()]
    whole = [begin for index, (_, begin) in begun.items() if index not in parser.broken]
    return "".join(text for _, text in sorted(content)), [
        Call(begin.id, begin.name, "".join(arguments[begin.index])) for begin in whole
    ]
