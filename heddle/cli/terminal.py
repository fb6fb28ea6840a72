"""Lines in and text out of a terminal chat, and the loop between them. Works without a terminal too."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..runtime.errors import HeddleError
from .talk import COMMANDS, STOPPED, Conversation

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

Read = Callable[[], Awaitable[str]]
"""The next message or command, of one or more lines; EOFError at the end, KeyboardInterrupt where it was thrown away."""

CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {ord("\r"): None}
CONTROLS |= dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)
"""What a model says must not move the cursor, or set the title, or worse: control characters become pictures of them."""


async def read_piped() -> str:
    """A message from standard input, which is no terminal: a line, or several where all but the last end with a backslash."""
    lines = []
    while line := sys.stdin.readline():
        lines.append(line.rstrip("\n"))
        if not lines[-1].endswith("\\"):
            return "\n".join(lines)
        lines[-1] = lines[-1][:-1]
    if lines:
        return "\n".join(lines)
    raise EOFError


def terminal_reader(history: Path | None, **streams: Any) -> Read:
    """Reads messages with editing, completion of commands, and a history that lasts if there is a file for it.

    `streams` are prompt_toolkit's `input` and `output`, where they are not the terminal.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.char_before_cursor == "\\" and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    if history is not None:
        private(history)
    session: PromptSession[str] = PromptSession(
        history=InMemoryHistory() if history is None else FileHistory(str(history)),
        completer=WordCompleter([f"/{name}" for name in (*COMMANDS, "again")], sentence=True),
        complete_while_typing=False,
        key_bindings=keys,
        multiline=True,
        prompt_continuation="… ",
        **streams,
    )

    async def read() -> str:
        return await session.prompt_async("> ")

    return read


def private(file: Path) -> None:
    """Make sure that `file` is there and that nobody else reads it: it holds what people said."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        raise HeddleError(
            f"cannot keep the history in {file}: {error.strerror}",
            fix="set HEDDLE_CACHE to a place that can be written, or give --no-history",
        ) from error


async def converse(talk: Conversation, read: Read, write: Callable[[str], None], interactive: bool) -> None:
    """Read and answer until the end of input or /exit.

    `write` gets pieces of answers. Where a person sits there, errors are shown and Ctrl-C stops an answer alone; else both
    end the conversation.
    """
    while not talk.left:
        try:
            text = (await read()).strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            continue
        try:
            if question := command(talk, text):
                await answer(talk, question, write, interactive)
        except HeddleError as error:
            if not interactive:
                raise
            click.echo(str(error), err=True)


def command(talk: Conversation, text: str) -> str:
    """Do what `text` says if it is a command; what is to be said to the model, if anything."""
    if not text.startswith("/"):
        return text
    if text.startswith("//"):
        return text[1:]
    name, _, rest = text[1:].partition(" ")
    if name == "again":
        return talk.take_back()
    if name not in COMMANDS:
        raise HeddleError(f"no command /{name}", f"there are {', '.join(map('/{}'.format, COMMANDS))} and /again")
    if shown := COMMANDS[name](talk, rest.strip()):
        click.echo(shown, err=True)
    return ""


async def answer(talk: Conversation, question: str, write: Callable[[str], None], interactive: bool) -> None:
    """Write the answer to `question` as it comes."""

    async def stream() -> None:
        async with aclosing(talk.say(question)) as pieces:
            async for piece in pieces:
                write(piece)

    if not interactive:
        await stream()
        write("\n")
        return
    task = asyncio.create_task(stream())
    with interrupts(task):
        await asyncio.wait([task])
    write("\n")
    if task.cancelled():
        click.echo(f"[{STOPPED}]", err=True)
        return
    task.result()
    if talk.answers[-1].finish_reason == "length":
        click.echo("[cut: max_tokens or the context is reached]", err=True)


@contextmanager
def interrupts(task: asyncio.Task[None]) -> Iterator[None]:
    """Ctrl-C cancels the task here, and does what it did before afterwards."""
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


def shown(text: str) -> str:
    """`text` as a terminal may be given it."""
    return text.translate(CONTROLS)
