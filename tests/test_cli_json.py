"""Every verb for programs: one JSON object on standard output and nothing else, errors too. Help and completion are quick."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from heddle.cli import VERBS, cli

from .async_tools import PARAMS
from .conftest import ROOT
from .test_cli import MODEL, call

HEDDLE = [sys.executable, "-m", "heddle.cli"]
TEXT = ROOT / "examples" / "tinydoc" / "README.md"
NOT_FOR_PROGRAMS = {"completion"}  # its output is a script


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands that do something, with their names."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*path, name))


LEAVES = dict(leaves(cli))


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_verb_explains_itself_and_speaks_json(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *path, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: heddle {' '.join(path)}")
    options = {name for parameter in LEAVES[path].params for name in parameter.opts}
    assert ("--json" in options) == (path[0] not in NOT_FOR_PROGRAMS)
    for parameter in LEAVES[path].params:
        if isinstance(parameter, click.Option) and not parameter.is_eager:
            documented = parameter.help or parameter.show_default
            assert documented, f"{parameter.opts[0]} of {path} is not explained"


@pytest.fixture(scope="module")
def trace(tinydoc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an engine did."""
    from heddle import LLM

    file = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    llm = LLM(tinydoc, threads=2, trace=file)
    llm.generate("The command", PARAMS)
    llm.engine.close()
    return file


def test_every_verb_gives_one_object(
    capsys: pytest.CaptureFixture[str],
    tinydoc: Path,
    trace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))
    bench = ("--threads", 2, "--input-len", 8, "--output-len", 4)
    text = ("--text", TEXT, "--max-tokens", 64, "--window", 32, "--threads", 2)
    calls: dict[tuple[str, ...], tuple[Any, ...]] = {
        ("compile",): (MODEL / "config.json", "-o", tmp_path / "a", "--random-weights", 1, "--target", "native"),
        ("run",): (tinydoc, "The", "--max-tokens", 3, "--threads", 2),
        ("chat",): (tinydoc, "--max-tokens", 3, "--threads", 2),
        ("embed",): (tinydoc, "The", "A line", "--truncate", 2, "--threads", 2),
        ("bench", "latency"): (tinydoc, *bench, "--repeat", 1, "--warmup", 0),
        ("bench", "throughput"): (tinydoc, *bench, "--num-prompts", 2),
        ("eval", "perplexity"): (tinydoc, *text),
        ("eval", "compare"): (tinydoc, tinydoc, *text),
        ("inspect",): (tinydoc,),
        ("check",): (MODEL,),
        ("export",): (MODEL, "-o", tmp_path / "hf"),
        ("doctor",): (),
        ("cache", "list"): (),
        ("cache", "clear"): ("--yes",),
        ("replay",): (trace,),
    }
    # The next test, and tests of the benchmark, of torch modules and of packages (tests/targets).
    by_themselves = {("serve",), ("bench", "serve"), ("compile-torch",), ("package",)}
    assert {*calls, *by_themselves} == {path for path in LEAVES if path[0] not in NOT_FOR_PROGRAMS}
    monkeypatch.setattr("heddle.cli.terminal.read_piped", said_nothing)
    for path, args in calls.items():
        code, out, err = call(capsys, *path, *args, "--json")
        assert code == 0 or path == ("doctor",), (path, err)
        assert isinstance(json.loads(out), dict), path


async def said_nothing() -> str:
    raise EOFError


def test_serve_says_where_it_listens_and_ends_when_told(tinydoc: Path) -> None:
    command = [*HEDDLE, "serve", str(tinydoc), "--port", "0", "--threads", "2", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            found = json.loads(server.stdout.readline())
            assert found["pid"] == server.pid
            with contextlib.closing(urllib.request.urlopen(found["url"], timeout=10)) as page:
                assert b"<title>Heddle</title>" in page.read()
        finally:
            server.send_signal(signal.SIGTERM)
            out, err = server.communicate(timeout=30)
    assert out == ""
    assert server.returncode in (0, 128 + signal.SIGTERM), err


@pytest.mark.parametrize(
    ("args", "code", "kind", "what"),
    [
        (("run", "/nonexistent", "hi"), 1, "ModelError", "/nonexistent"),
        (("chat", "/nonexistent"), 1, "ModelError", "/nonexistent"),
        (("serve", "/nonexistent"), 1, "ModelError", "/nonexistent"),
        (("bench", "latency", "/nonexistent"), 1, "ModelError", "/nonexistent"),
        (("bench", "serve", "--base-url", "http://127.0.0.1:9"), 1, "HeddleError", "127.0.0.1:9"),
        (("compile", "/nonexistent"), 1, "ModelError", "/nonexistent"),
        (("export", "/nonexistent", "-o", "/nonexistent/o"), 1, "ModelError", "/nonexistent"),
        (("inspect", "/nonexistent"), 1, "ArtifactError", "/nonexistent"),
        (("replay", "/nonexistent"), 1, "TraceError", "/nonexistent"),
        (("run", MODEL, "hi", "--max-tokens", "0"), 1, "RequestError", "max_tokens"),
        (("run", MODEL, "hi", "--max-tokens", "x"), 2, "BadParameter", "--max-tokens"),
        (("frobnicate",), 2, "NoSuchCommand", "frobnicate"),
    ],
)
def test_errors_are_objects_too(
    capsys: pytest.CaptureFixture[str], args: tuple[object, ...], code: int, kind: str, what: str
) -> None:
    found, out, err = call(capsys, *args, "--json")
    error = json.loads(out)["error"]
    assert (found, error["type"], set(error)) == (code, kind, {"type", "what", "why", "fix"})
    assert error["what"].splitlines()[0] in err, "a person is told as well"
    assert what in error["what"]
    assert call(capsys, *args[:1], "--", *args[1:], "--json")[1] == "", "behind -- it is no option"


@pytest.mark.parametrize("args", [["--help"], *([verb, "--help"] for verb in VERBS), ["completion", "bash"]])
def test_nothing_heavy_is_imported_for_help(args: list[str]) -> None:
    code = (
        "import sys; from heddle.cli import cli; cli.main(sys.argv[1:], 'heddle', standalone_mode=False);"
        "heavy = {'tvm', 'numpy', 'jinja2', 'fastapi', 'uvicorn', 'aiohttp', 'prompt_toolkit', 'rich', 'tokenizers'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *args], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("shell", "first"), [("bash", "_heddle_completion()"), ("zsh", "#compdef heddle"), ("fish", "fun")]
)
def test_completion(capsys: pytest.CaptureFixture[str], shell: str, first: str) -> None:
    code, out, err = call(capsys, "completion", shell)
    assert (code, err) == (0, "")
    assert out.startswith(first)
    assert "_HEDDLE_COMPLETE" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("heddle c", "compile compile-torch chat check cache completion"),
        ("heddle eval ", "perplexity compare"),
        ("heddle run --top", "--top-p --top-k"),
    ],
)
def test_words_are_completed(words: str, expected: str) -> None:
    count = len(words.split(" ")) - 1
    environment = os.environ | {"_HEDDLE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    done = subprocess.run(HEDDLE, env=environment, capture_output=True, text=True, check=True)
    assert sorted(line.partition(",")[2] for line in done.stdout.split()) == sorted(expected.split())
