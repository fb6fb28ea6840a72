"""The terminal chat: what is said, stopped and commanded."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from heddle.cli.sources import Answer, Messages
from heddle.cli.talk import COMMANDS, Conversation
from heddle.cli.terminal import command, converse, shown, terminal_reader
from heddle.runtime.errors import HeddleError


class Echo:
    """A model that says what it was told, a character at a time, and hangs at an exclamation mark."""

    name = "echo"

    def __init__(self) -> None:
        self.asked: list[tuple[list[Mapping[str, str]], dict[str, Any]]] = []
        self.stopped = 0
        self.hanging = asyncio.Event()

    async def answer(
        self, messages: Messages, sampling: Mapping[str, Any], answer: Answer
    ) -> AsyncGenerator[str, None]:
        self.asked.append((list(messages), dict(sampling)))
        if messages[-1]["content"] == "refuse":
            raise HeddleError("refused")
        try:
            for character in messages[-1]["content"]:
                if character == "!":
                    self.hanging.set()
                    await asyncio.sleep(60)
                answer.completion_tokens += 1
                yield character
            answer.finish_reason, answer.prompt_tokens = "stop", 3
        except asyncio.CancelledError:
            self.stopped += 1
            raise

    async def close(self) -> None:
        pass


def reader(*lines: str | type[BaseException]) -> Callable[[], Awaitable[str]]:
    """Gives the lines, one a call, then the end."""
    left = list(lines)

    async def read() -> str:
        line = left.pop(0) if left else EOFError
        if not isinstance(line, str):
            raise line
        return line

    return read


def talk_about(*lines: str | type[BaseException], interactive: bool = True) -> tuple[Conversation, Echo, str]:
    """The conversation after these lines, its model, and what was written."""
    written: list[str] = []

    async def run() -> tuple[Conversation, Echo]:
        echo = Echo()
        talk = Conversation(echo)
        await converse(talk, reader(*lines), written.append, interactive)
        return talk, echo

    talk, echo = asyncio.run(run())
    return talk, echo, "".join(written)


def test_turns_follow_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    talk, echo, written = talk_about(
        "/system Be brief.", "one", "", "//two", KeyboardInterrupt, "/stats", "/exit", "no"
    )
    assert written == "one\n/two\n"
    assert echo.asked[1][0] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "/two"},
    ]
    assert (talk.left, len(talk.answers), talk.answers[0].finish_reason) == (True, 2, "stop")
    told = capsys.readouterr().err
    assert "system prompt: Be brief." in told
    assert re.search(r"last answer: 3 prompt tokens, 4 tokens, first after \d+ ms, [\d.]+ tokens/s, stop", told)
    assert "all 2: 7 tokens" in told


def test_ctrl_c_stops_the_answer_alone(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> tuple[Conversation, Echo]:
        echo = Echo()
        talk = Conversation(echo)

        async def interrupt() -> None:
            for _ in range(2):
                await echo.hanging.wait()
                echo.hanging.clear()
                os.kill(os.getpid(), signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)
        task = asyncio.create_task(interrupt())
        await converse(talk, reader("half! way", "!nothing", "more"), lambda text: None, True)
        await task
        assert signal.getsignal(signal.SIGINT) is before
        return talk, echo

    talk, echo = asyncio.run(run())
    assert echo.stopped == 2
    assert [turn["content"] for turn in talk.turns] == ["half! way", "half", "more", "more"]
    assert [answer.finish_reason for answer in talk.answers] == ["stopped", "stop"]
    assert capsys.readouterr().err.count("[stopped]") == 2


def test_commands_change_the_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "talk.json"
    talk, echo, written = talk_about(
        "/set temperature 0.3", "/set stop END", "a", "/again", "refuse", "/set seed 5", "/set seed default",
        "/set top_p 7", "/set tempratur 1", "/system S", f"/save {file}", "/save", f"/save {tmp_path / 'no' / 'where'}",
        "/reset", "/again", f"/load {file}", "/set", "b", "/nonsense", "/load /nonexistent", f"/load {__file__}", "/help",
    )  # fmt: skip
    assert written == "a\na\n\nb\n"
    assert echo.asked[1] == ([{"role": "user", "content": "a"}], {"temperature": 0.3, "stop": "END"})
    assert [turn["content"] for turn in talk.messages] == ["S", "a", "a", "b", "b"]
    saved = json.loads(file.read_text())
    assert (saved["model"], len(saved["messages"]), len(saved["answers"])) == ("echo", 3, 1)
    told = capsys.readouterr().err
    for expected in (
        "refused",
        "top_p is 7",
        "did you mean temperature",
        "/save needs the name of a file",
        "cannot write",
        "the conversation begins anew",
        "nothing has been said yet",
        "3 messages read",
        "temperature = 0.3\nstop = END",
        "no command /nonsense",
        "cannot read /nonexistent",
        "is no conversation that /save wrote",
    ):
        assert expected in told
    assert all(f"/{name}" in told for name in COMMANDS)


def test_errors_end_a_piped_conversation() -> None:
    with pytest.raises(HeddleError, match="refused"):
        talk_about("refuse", "more", interactive=False)
    with pytest.raises(HeddleError, match="no command"):
        command(Conversation(Echo()), "/nonsense")


def test_what_a_model_says_moves_no_cursor() -> None:
    assert shown("a\tb\n\r\x1b[2J\x07\x9b1m\x7f é") == "a\tb\n␛[2J␇�1m� é"


def test_lines_are_edited(tmp_path: Path) -> None:
    history = tmp_path / "cache" / "history"

    async def read(keys: str) -> str:
        with create_pipe_input() as pipe:
            pipe.send_text(keys)
            return await terminal_reader(history, input=pipe, output=DummyOutput())()

    assert asyncio.run(read("one\\\rtwo\x1b\rthree\r")) == "one\ntwo\nthree"
    assert asyncio.run(read("/reset\r")) == "/reset"
    assert asyncio.run(read("\x1b[A\x1b[A\x1b[B\r")) == "/reset", "the history is there in the next session"
    assert history.stat().st_mode & 0o777 == 0o600
    with pytest.raises(EOFError):
        asyncio.run(read("\x04"))
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(read("half\x03"))
    with pytest.raises(HeddleError, match="no-history"):
        terminal_reader(Path("/proc/nowhere/history"))
