"""heddle-run on the command line: what it prints where, its exit codes, signals, and the C library as other programs use it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import heddle
from tests.artifact_tools import copy_artifact
from tests.native_fuzz import rehash
from tests.native_tools import ask, call, heddle_run


def test_it_streams_what_python_prints(tinydoc: Path) -> None:
    options = ["--temperature", "0", "--max-tokens", "16"]
    command = [sys.executable, "-m", "heddle.cli", "run", str(tinydoc), "The command", *options]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for done in (
        call(heddle_run(), tinydoc, "The command", *options),
        call(heddle_run(), tinydoc, *options, stdin="The command"),
        call(heddle_run(), *options, "--", tinydoc, "The command"),
    ):
        assert (done.returncode, done.stdout) == (0, expected)
        assert "prompt tokens at" in done.stderr


def test_several_prompts_are_printed_in_their_order(tinydoc: Path) -> None:
    # The first answer is the longest, so that the others wait for it.
    prompts = ["def main(", "The", "A transaction is"]
    options = ["--temperature=0", "--max-tokens=12"]
    alone = [call(heddle_run(), tinydoc, prompt, *options).stdout for prompt in prompts]
    together = call(heddle_run(), tinydoc, *prompts, *options).stdout
    assert together == "".join(f"==> {i} <==\n{text}" for i, text in enumerate(alone, 1))


def test_prompts_and_answers_as_ids(tinydoc: Path) -> None:
    ids = heddle.LLM(tinydoc, threads=2).needed_tokenizer().encode("The command line")
    by_text = ask(heddle_run(), tinydoc, "The command line", "--temperature=0", "--max-tokens=5")["outputs"][0]
    given = ", ".join(map(str, ids))
    by_ids = ask(heddle_run(), tinydoc, given, "--ids", "--temperature=0", "--max-tokens=5")["outputs"][0]
    assert by_ids["prompt"] is None
    assert by_ids["prompt_tokens"] == by_text["prompt_tokens"] == len(ids)
    assert by_ids["token_ids"] == by_text["token_ids"]
    printed = call(heddle_run(), tinydoc, "--ids", "--temperature=0", "--max-tokens=5", stdin=given).stdout
    assert printed == ",".join(map(str, by_text["token_ids"])) + "\n"


def test_stats_and_info(tinydoc: Path) -> None:
    found = ask(heddle_run(), tinydoc, "The command", "A", "--max-tokens=9", "--ignore-eos", "--threads=2")
    outputs, stats = found["outputs"], found["stats"]
    assert stats["prompt_tokens"] == sum(o["prompt_tokens"] for o in outputs)
    assert stats["generated_tokens"] == sum(len(o["token_ids"]) for o in outputs) == 18
    assert 0 < stats["first_token_seconds"] <= stats["seconds"]
    assert 0 < stats["prefill_seconds"] + stats["decode_seconds"] <= stats["seconds"]
    info = ask(heddle_run(), tinydoc, "--info", "--threads=2", "--verify")
    opened = heddle.LLM(tinydoc, threads=2)
    runner = opened.runner.info
    assert info["architecture"] == "LlamaForCausalLM"
    assert info["target"] == found["target"] == opened.artifact.target.name
    assert info["threads"] == found["threads"] == 2
    assert [info[name] for name in ("vocab_size", "context_length", "page_tokens", "max_tokens", "max_seqs")] == [
        runner.vocab_size, runner.context_length, runner.page_tokens, runner.max_tokens, runner.max_seqs
    ]  # fmt: skip
    assert info["num_pages"] == runner.num_pages, "the pool is as large as in Python where nobody says a size"
    assert info["weights_bytes"] == (tinydoc / "weights.safetensors").stat().st_size
    shown = call(heddle_run(), tinydoc, "--info").stdout
    assert all(name in shown for name in info)


def test_a_benchmark(tinydoc: Path) -> None:
    options = ["--bench=2", "--max-tokens=4", "--lengths=8,40", "--batch=3", "--threads=2"]
    found = ask(heddle_run(), tinydoc, *options)
    assert [row["prompt_tokens"] for row in found["results"]] == [8, 40]
    for row in found["results"]:
        for rates in (row["prompt_tokens_per_second"], row["decode_tokens_per_second"]):
            assert 0 < rates["least"] <= rates["median"] <= rates["most"]
    assert (found["batch"], found["rounds"], found["max_tokens"]) == (3, 2, 4)
    table = call(heddle_run(), tinydoc, *options).stdout
    assert "decode tokens/s" in table
    context = heddle.LLM(tinydoc, threads=2).runner.info.context_length
    assert call(heddle_run(), tinydoc, "--bench=1", f"--lengths={context - 2}", "--max-tokens=2").returncode == 0
    for length in (4000, context - 1):
        refused = call(heddle_run(), tinydoc, "--bench=1", f"--lengths={length}", "--max-tokens=2")
        assert refused.returncode == 1
        assert "context" in refused.stderr


def test_version_and_help() -> None:
    assert call(heddle_run(), "--version").stdout == f"heddle-run {heddle.__version__}\n"
    shown = call(heddle_run(), "--help")
    assert shown.returncode == 0
    assert all(f"--{name}" in shown.stdout for name in ("max-tokens", "seed", "json", "bench", "target"))
    assert max(map(len, shown.stdout.splitlines())) <= 132


def test_bytes_that_are_no_text(tinydoc: Path) -> None:
    """Prompts may be any bytes; what is printed is UTF-8."""
    llm = heddle.LLM(tinydoc, threads=2)
    data = b"ab\xff\xc3(\xed\xa0\x80 \xf0\x9f\x8e c"
    done = call(heddle_run(), tinydoc, "--json", "--max-tokens=3", "--temperature=0", stdin=data)
    found = json.loads(done.stdout)["outputs"][0]
    text = data.decode("utf-8", "replace")
    assert found["prompt_tokens"] == len(llm.needed_tokenizer().encode(text))
    zero = call(heddle_run(), tinydoc, "--json", "--max-tokens=3", "--temperature=0", stdin=b"a\0b")
    assert json.loads(zero.stdout)["outputs"][0]["prompt"] == "a\0b"


def test_a_terminal_gets_no_control_characters(tinydoc: Path, tmp_path: Path) -> None:
    """A stop text that never comes makes no difference to what a token's text may hold: the tokenizer is given one that does."""
    artifact = copy_artifact(tinydoc, tmp_path)
    llm = heddle.LLM(tinydoc, threads=2)
    text = llm.generate("The command", heddle.SamplingParams(temperature=0.0, max_tokens=24))[0].outputs[0].text
    # Decoders that turn a letter which the answer has into the start of an escape sequence, and a newline.
    letter = max(set(text) - {" ", "\n"}, key=text.count)
    file = artifact / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    replace = {"type": "Replace", "pattern": {"String": letter}, "content": "\x1b]0;title\x07\r\u0085"}
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [tokenizer["decoder"], replace]}
    file.write_text(json.dumps(tokenizer))
    rehash(artifact, "tokenizer.json")
    options = ["--temperature=0", "--max-tokens=24"]
    assert "\x1b]0;title\x07" in call(heddle_run(), artifact, "The command", *options).stdout
    shown = in_terminal([str(heddle_run()), str(artifact), "The command", *options])
    assert "␛]0;title␇\N{REPLACEMENT CHARACTER}" in shown
    assert not set(shown) & set("\x1b\x07\x85")


def in_terminal(command: list[str]) -> str:
    """What a command writes to its terminal, standard error apart."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as reader:
        process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        os.close(theirs)
        data = b""
        while part := _read(reader.fileno()):
            data += part
        assert process.wait(timeout=60) == 0
    return data.decode().replace("\r\n", "\n")  # the terminal's own ends of lines


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux, where the other side is closed
        return b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_text_cleanly(tinydoc: Path, number: signal.Signals) -> None:
    command = [str(heddle_run()), str(tinydoc), "The command", "--max-tokens=2000", "--ignore-eos", "--threads=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(8), "it has begun"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out.endswith(b"\n"), "the line is ended"
    assert b"prompt tokens at" in err


def test_a_reader_that_leaves_ends_it(tinydoc: Path) -> None:
    command = f"'{heddle_run()}' '{tinydoc}' The --max-tokens=2000 --ignore-eos | head -c 4"
    start = time.perf_counter()
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60)
    assert len(done.stdout) == 4
    assert time.perf_counter() - start < 60
    with open("/dev/full", "w") as place:
        full = subprocess.run([str(heddle_run()), "--version"], stdout=place, stderr=subprocess.PIPE, text=True)
    assert full.returncode == 1
    assert "standard output cannot be written" in full.stderr
