"""heddle-run as tests use it: built once, asked for JSON, and compared with the Python runtime."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import heddle
from heddle.compiler.build_cache import cache_directory
from heddle.compiler.native import build_runner, tvm_files
from heddle.compiler.native.runner import configure_options, sources
from heddle.compiler.native.tvm_files import locked
from heddle.runtime.features import architecture
from tests.conftest import ROOT

SANITIZERS = "address,undefined"
FOUND = 99
"""The exit code after a sanitizer's finding, unlike any that heddle-run has."""

ENVIRONMENT = {
    # Threads of compiled code look for work before they sleep, and a program that leaves waits for them: seconds on a busy machine.
    "TVM_THREAD_POOL_SPIN_COUNT": "0",
    "ASAN_OPTIONS": f"exitcode={FOUND}:abort_on_error=0:detect_leaks=1:allocator_may_return_null=0",
    "UBSAN_OPTIONS": f"exitcode={FOUND}:print_stacktrace=1",
}


@functools.cache
def heddle_run() -> Path:
    """The program, as it is shipped."""
    return build_runner().program


@functools.cache
def installed() -> Path:
    """A prefix with all that `cmake --install` makes, from a build that has no sanitizers."""
    return build("plain")


@functools.cache
def sanitized() -> Path:
    """The program with sanitizers."""
    return (
        build("sanitized", f"-DHEDDLE_SANITIZE={SANITIZERS}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo")
        / "bin"
        / "heddle-run"
    )


def build(name: str, *options: str) -> Path:
    """Configure, build and install with more options; builds stay in the cache, so what is unchanged is not built again."""
    arch = architecture()
    place = cache_directory() / "native" / f"tests-{name}"
    commands = [
        ["cmake", "-S", str(sources()), "-B", str(place / "build"), "-G", "Ninja"],
        ["cmake", "--build", str(place / "build"), "--parallel", str(len(os.sched_getaffinity(0)))],
        ["cmake", "--install", str(place / "build"), "--prefix", str(place / "prefix")],
    ]
    commands[0] += [*configure_options(arch, tvm_files(arch)), "-DHEDDLE_WERROR=ON", *options]
    with locked(place):
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return place / "prefix"


def call(
    program: Path, *arguments: object, stdin: str | bytes = "", seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, whatever that is, with ENVIRONMENT."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        input=data,
        capture_output=True,
        timeout=seconds,
        env=os.environ | ENVIRONMENT,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    )


def ask(program: Path, *arguments: object, stdin: str = "", seconds: float = 60) -> dict[str, Any]:
    """The JSON object that it prints, which must be all that it prints."""
    done = call(program, "--json", *arguments, stdin=stdin, seconds=seconds)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return dict(json.loads(done.stdout))


def options_of(settings: dict[str, Any]) -> list[str]:
    """Fields of SamplingParams as options of the command line."""
    given = []
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            given.append(option)
        else:
            given += [f"{option}={item}" for item in (value if isinstance(value, list) else [value])]
    return given


def by_python(llm: heddle.LLM, prompts: Sequence[str], settings: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Prompt tokens, tokens, text and end of each answer, by the Python runtime."""
    outputs = llm.generate(list(prompts), heddle.SamplingParams(**settings))
    return [
        (
            len(output.prompt_token_ids),
            list(output.outputs[0].token_ids),
            output.outputs[0].text,
            output.outputs[0].finish_reason,
        )
        for output in outputs
    ]


def by_runner(
    program: Path, artifact: Path, prompts: Sequence[str], settings: dict[str, Any], *more: object
) -> list[tuple[Any, ...]]:
    """The same by heddle-run, which serves all prompts at once."""
    found = ask(program, "--threads=2", *options_of(settings), *more, "--", artifact, *prompts, seconds=300)
    return [(o["prompt_tokens"], o["token_ids"], o["text"], o["finish_reason"]) for o in found["outputs"]]


def prompts(count: int) -> list[str]:
    """Texts of many kinds: beginnings of sentences and code, white space, several scripts, one that needs several steps."""
    given = [
        "The command line option",
        "def main(",
        "To install the package, run",
        "A transaction is",
        "The function returns a pointer to",
        " ",
        "\n\n  \t",
        "1 + 1 = 2, 3.14159, 0x7fff",
        "Grüße aus Köln — naïve café",
        "日本語のテキスト 🎉👩‍👩‍👧",
        "مرحبا بالعالم",
        "e\u0301 \u00e9 \ufb01 \u200d",
        "<s> not special </s>",
        "a" * 300,
    ]
    words = (ROOT / "docs" / "architecture.md").read_text("utf-8").split()
    given.append(" ".join(words[:600]))
    lengths = [3, 8, 20, 40, 90]
    for i in range(count - len(given)):
        at = (i * 97) % (len(words) - 100)
        given.append(" ".join(words[at : at + lengths[i % len(lengths)]]))
    assert len(set(given)) == len(given) == count
    return given
