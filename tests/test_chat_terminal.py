"""The terminal chat as a whole: with a server, with a pipe, in a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from heddle.cli.sources import Remote
from heddle.cli.talk import Conversation
from heddle.runtime.errors import HeddleError

from .test_chat import reader
from .test_cli import call
from .web_tools import Script, running, scripted


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def address(script: Script) -> Iterator[str]:
    with running(scripted(script)) as url:
        yield url


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_server_answers(
    address: str, script: Script, suffix: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heddle.cli.terminal.read_piped", reader("Hi", "/again"))
    monkeypatch.setenv("HEDDLE_API_KEY", "secret")
    script.text = "Good day — ⊕"
    code, out, err = call(capsys, "chat", address + suffix, "--system", "S", "--seed", 3, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["model"] == "scripted"
    assert [m["content"] for m in found["messages"]] == ["S", "Hi", script.text]
    (answer,) = found["answers"]
    assert (answer["prompt_tokens"], answer["cached_tokens"], answer["completion_tokens"]) == (9, 5, 3)
    assert answer["finish_reason"] == "stop"
    assert script.bodies[0] == script.bodies[1] == {
        "model": "scripted",
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 3,
    }  # fmt: skip
    assert script.keys == ["Bearer secret"] * 2


def test_stopping_reaches_the_server(address: str, script: Script) -> None:
    script.hold_after = 1

    async def run() -> str:
        remote = Remote(address, "other")
        talk = Conversation(remote)
        try:
            await remote.find_model()
            async for piece in talk.say("Hi"):
                return piece
        finally:
            await remote.close()
        return ""

    assert asyncio.run(run()) == "Hell"
    assert script.bodies[0]["model"] == "other"
    assert script.left.wait(10), "the server was not told"


def test_servers_that_do_not_serve(address: str, script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    async def ask(url: str) -> str:
        remote = Remote(url)
        try:
            await remote.find_model()
            return "".join([piece async for piece in Conversation(remote).say("Hi")])
        finally:
            await remote.close()

    script.error = (401, "no API key")
    with pytest.raises(HeddleError, match=r"refused \(401\): no API key\n  fix: .*HEDDLE_API_KEY"):
        asyncio.run(ask(address))
    with pytest.raises(HeddleError, match=r"refused \(404\): Not Found"):
        asyncio.run(ask(address + "/elsewhere"))
    code, out, err = call(capsys, "chat", "http://127.0.0.1:9", "--json")
    assert (code, json.loads(out)["error"]["type"]) == (1, "HeddleError")
    assert "heddle serve" in err
    for args in (("--threads", 2), ("--quant", "w4a8"), ("--kv-memory", "1GB")):
        assert call(capsys, "chat", address, *args)[0] == 2
    assert call(capsys, "chat", "/nonexistent", "--model", "x")[0] == 2


def test_piped_lines_are_messages(tinydoc: Path) -> None:
    command = [sys.executable, "-m", "heddle.cli", "chat", str(tinydoc), "--threads", "2", "--temperature", "0"]
    command += ["--max-tokens", "8"]
    lines = "What is\\\na page?\n/again\n"
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == second
    assert done.stderr == ""
    done = subprocess.run([*command, "--json"], input=lines, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [m["content"] for m in found["messages"]] == ["What is\na page?", first]
    assert found["answers"][0]["completion_tokens"] <= 8


class Terminal:
    """A `heddle` in a terminal of its own, which is what Ctrl-C needs."""

    OWN = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from heddle.cli import main; main()"

    def __init__(self, *args: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 100))
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.OWN, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | environment,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str, seconds: float = 30) -> None:
        """Read until `pattern` comes after what was waited for before."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f"{pattern!r} does not come; there is {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        self.seen = self.seen[found.end() :]

    def exit_code(self) -> int:
        code = self.process.wait(20)
        os.close(self.master)
        return code


def test_a_real_terminal(address: str, script: Script, tmp_path: Path) -> None:
    script.text, script.hold_after = "It is a \x1b[31mtable", 3
    terminal = Terminal("chat", address, HEDDLE_CACHE=str(tmp_path), TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1")
    terminal.wait_for("scripted. /help lists commands, Ctrl-D leaves.")
    terminal.wait_for(">")
    terminal.type("What is it?\r")
    terminal.wait_for("It is a ␛")
    terminal.type("\x03")
    terminal.wait_for(r"\[stopped\]")
    terminal.wait_for(">")
    script.hold_after = None
    terminal.type("thrown away\x03")
    terminal.wait_for(">")
    terminal.type("/again\r")
    terminal.wait_for(r"␛\[31mtable")
    terminal.wait_for(">")
    terminal.type("/st\t")
    terminal.wait_for("/stats|ats")
    terminal.type("\r")
    terminal.wait_for("last answer: 9 prompt tokens")
    terminal.wait_for(">")
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    assert [len(body["messages"]) for body in script.bodies] == [1, 1]
    assert "What is it?" in (tmp_path / "chat_history").read_text()
