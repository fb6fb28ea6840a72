"""Chat templates: those of well-known families as transformers renders them, and those that attack."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import transformers

from heddle.models import check_model
from heddle.runtime.chat_template import TemplateError, TemplateProcess
from heddle.runtime.errors import RequestError
from heddle.runtime.tokenizer import Tokenizer, TokenizerError

from .tokenization_tools import ROOT, tinydoc, write

TEMPLATES = Path(__file__).parent / "templates"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "Where <é>"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": PARAMETERS}}]
TURNS = [
    {"role": "user", "content": " Hi <there> "},
    {"role": "assistant", "content": "Yes?\n"},
    {"role": "user", "content": "Bye"},
]
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "turns": (TURNS, {}),
    "system": ([{"role": "system", "content": "Be brief."}, *TURNS], {}),
    "one": (TURNS[:1], {"enable_thinking": False}),
    "thoughts": ([TURNS[0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}, TURNS[2]], {}),
    "tools": (
        [
            TURNS[0],
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "é"}}}],
            },
            {"role": "tool", "name": "weather", "content": "rain"},
        ],
        {"tools": TOOLS},
    ),
}


@pytest.fixture
def process() -> Iterator[TemplateProcess]:
    made = TemplateProcess(seconds=0.3)
    yield made
    made.close()


@pytest.mark.parametrize("talk", CONVERSATIONS)
@pytest.mark.parametrize("family", sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
def test_families_as_transformers_renders_them(family: str, talk: str, tmp_path: Path) -> None:
    messages, variables = CONVERSATIONS[talk]
    template = (TEMPLATES / f"{family}.jinja").read_text("utf-8")
    config = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    write(tmp_path, {"tokenizer.json": tinydoc(), "tokenizer_config.json": config, "chat_template.jinja": template})
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    for generate in (True, False):
        options = {"add_generation_prompt": generate, **variables}
        try:
            expected = theirs.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # the template's own refusal
            with pytest.raises(RequestError, match=str(error).partition("\n")[0]):
                ours.apply_chat_template(messages, **options)
            continue
        assert ours.apply_chat_template(messages, **options) == expected
        assert len(expected) > 10


TOO_LONG = ("TimeoutError", "MemoryError")
ATTACKS = {
    "nested loops": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", TOO_LONG),
    "a huge range": ("{% for i in range(10**9) %}{% endfor %}", ("OverflowError",)),
    "a huge text": ("{{ 'a' * 10**10 }}", TOO_LONG),
    "a huge text by doubling": (
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x|length }}",
        TOO_LONG,
    ),
    "a huge list by doubling": (
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        TOO_LONG,
    ),
    "a huge number": ("{{ 10**(10**10) }}", TOO_LONG),
    "a huge width": ("{{ '%9999999999d' % 1 }}", (*TOO_LONG, "ValueError", "OverflowError")),
    "a huge margin": ("{{ 'a'|center(10**10) }}", TOO_LONG),
    "a huge filler": ("{{ lipsum(n=10**8) }}", TOO_LONG),
    "an endless macro": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ("RecursionError",)),
    "a doubling macro": (
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(99) }}",
        TOO_LONG,
    ),
    "deep brackets": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", ("RecursionError",)),
    "a class": ("{{ ''.__class__ }}", ("SecurityError",)),
    "a class by a filter": ("{{ messages|attr('__class__') }}", ("SecurityError",)),
    "a class by map": ("{{ messages|map(attribute='__class__')|list }}", ("SecurityError",)),
    "a class by format": ("{{ '{0.__class__}'.format(1) }}", ("SecurityError",)),
    "a class by an index": ("{{ ''['__class__'] }}", ("SecurityError",)),
    "globals": ("{{ lipsum.__globals__['os'].popen('id') }}", ("SecurityError",)),
    "globals of ours": ("{{ strftime_now.__globals__ }}", ("SecurityError",)),
    "the template": ("{{ self.__init__ }}", ("SecurityError",)),
    "a change": ("{{ messages.append(1) }}", ("SecurityError",)),
    "a file": ("{% include '/etc/passwd' %}", ("TypeError",)),
    "a module": ("{% import 'os' as os %}", ("TypeError",)),
    "what is not there": ("{{ a.b.c }}", ("UndefinedError",)),
    "syntax": ("{% if %}", ("TemplateSyntaxError",)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_end_in_an_error(name: str, process: TemplateProcess) -> None:
    template, kinds = ATTACKS[name]
    start = time.monotonic()
    with pytest.raises(TemplateError) as caught:
        process.render(template, {"messages": [1]})
    assert caught.value.kind in kinds
    assert len(str(caught.value)) < 3000
    assert time.monotonic() - start < 30
    assert process.render("{{ 1 + 1 }}", {}) == "2"  # the next one does not notice


def test_a_template_that_loops_stops_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = TemplateProcess(seconds=0.2)
    monkeypatch.setattr("heddle.runtime.chat_template.render", process.render)
    write(tmp_path, {"tokenizer.json": tinydoc(), "chat_template.jinja": ATTACKS["nested loops"][0]})
    with pytest.raises(TokenizerError, match=r"chat template was stopped(.|\n)*more than 0.2 seconds"):
        Tokenizer.load(tmp_path).apply_chat_template(TURNS)
    process.close()


def test_check_tries_the_template(tmp_path: Path) -> None:
    """What loops or reads attributes is a warning of `heddle check`; that it refuses the conversation is not."""
    named = [{"name": "default", "template": "{{ ''.__class__ }}"}, {"name": "tool_use", "template": "{% if %}"}]
    write(tmp_path, {"tokenizer.json": tinydoc(), "tokenizer_config.json": {"chat_template": named}})
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(ROOT / "examples" / "tinydoc" / name)
    found = [problem for problem in check_model(tmp_path) if "chat template" in problem.what]
    assert [problem.severity for problem in found] == ["warning", "warning"]
    assert "may not read '__class__'" in found[0].why
    assert "TemplateSyntaxError: line 1" in found[1].why
    write(tmp_path, {"chat_template.jinja": "{{ raise_exception('system first') }}"})
    assert not [problem for problem in check_model(tmp_path) if "chat template" in problem.what]
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    assert "chat_template.jinja cannot be read" in [problem.what for problem in check_model(tmp_path)]
    (tmp_path / "chat_template.jinja").unlink()
    write(tmp_path, {"tokenizer_config.json": {"chat_template": ["default"]}})
    assert "tokenizer_config.json cannot be read" in [problem.what for problem in check_model(tmp_path)]


def test_compiling_is_bounded(process: TemplateProcess, tmp_path: Path) -> None:
    """Jinja computes constants then. Templates given to `load` are compiled there, by the process."""
    with pytest.raises(TemplateError, match="processor time"):
        process.render("{{ 10**(10**10) }}", None)
    write(tmp_path, {"tokenizer.json": tinydoc()})
    with pytest.raises(TokenizerError, match="chat template is broken"):
        Tokenizer.load(tmp_path, chat_template="{% if %}")


def test_values_that_are_not_json(tmp_path: Path) -> None:
    write(tmp_path, {"tokenizer.json": tinydoc(), "chat_template.jinja": "{{ messages }}"})
    tokenizer = Tokenizer.load(tmp_path)
    with pytest.raises(RequestError, match="what JSON can hold"):
        tokenizer.apply_chat_template(TURNS, documents={1, 2})
    odd = "\ud800 é 😀"
    write(tmp_path, {"chat_template.jinja": "{{ messages[0].content }}"})
    assert Tokenizer.load(tmp_path).apply_chat_template([{"role": "user", "content": odd}]) == odd


def test_many_threads_share_a_process(process: TemplateProcess) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: process.render("{{ i }}" + "." * (i % 7), {"i": i}), range(200)))
    assert found == [str(i) + "." * (i % 7) for i in range(200)]


def test_a_process_that_died_is_started_again(process: TemplateProcess) -> None:
    assert process.render("{{ a }}", {"a": 1}) == "1"
    assert process._process is not None
    process._process.kill()
    process._process.wait()
    assert process.render("{{ a }}", {"a": "x" * 200_000}) == "x" * 200_000


def test_the_process_knows_no_secrets_and_writes_no_files(
    process: TemplateProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "abc")
    process.render("", {})
    assert process._process is not None
    entry = Path(f"/proc/{process._process.pid}")
    assert b"SOME_TOKEN" not in (entry / "environ").read_bytes()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (entry / "limits").read_text().splitlines()}
    assert limits["Max file size"] == limits["Max processes"] == ["0", "0"]


def test_no_process_can_be_started(process: TemplateProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(TemplateError, match="cannot be started: .*No such file"):
        process.render("", {})


def test_a_fork_has_a_process_of_its_own(process: TemplateProcess) -> None:
    """`forget` is what a fork does: the other process goes on with the one that is there."""
    process.render("", {})
    first = process._process
    assert first is not None
    process.hold()
    process.forget()
    assert process.render("{{ 2 }}", {}) == "2"
    assert process._process is not None
    assert process._process.pid != first.pid
    os.waitpid(first.pid, 0)  # its input has ended


def test_waiting_does_not_count(process: TemplateProcess) -> None:
    """The bound is on processor time: a busy machine or an idle process does not use it up."""
    process.render("", {})
    threading.Event().wait(0.5)
    assert process.render("{{ strftime_now('%Y') }}", {}).isdigit()
    assert json.loads(process.render("{{ {'b': 'é', 'a': [1]}|tojson }}", {})) == {"b": "é", "a": [1]}
