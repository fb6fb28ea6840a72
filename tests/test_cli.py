"""The command line: verbs, JSON, and errors that are explained."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from heddle.cli import VERBS, main
from tests.conftest import ROOT

MODEL = ROOT / "examples" / "tinydoc"


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `heddle args`."""
    code = 0
    try:
        main([str(a) for a in args])
    except SystemExit as done:
        code = int(done.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(verb in out for verb in VERBS)
    for verb in VERBS:
        assert call(capsys, verb, "--help")[0] == 0


def test_run_gives_json(capsys: pytest.CaptureFixture[str], tinydoc: Path) -> None:
    code, out, _ = call(
        capsys, "run", tinydoc, "The command", "--max-tokens", 8, "--temperature", 0, "--threads", 2, "--json"
    )
    result = json.loads(out)
    assert code == 0
    assert len(result["token_ids"]) <= 8
    assert result["finish_reason"] in ("stop", "length")
    assert result["text"]


def test_run_streams_from_standard_input(tinydoc: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "heddle.cli",
        "run",
        str(tinydoc),
        "--max-tokens",
        "8",
        "--seed",
        "1",
        "--threads",
        "2",
    ]
    done = subprocess.run(command, input="The command", capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert "2 threads" in done.stderr


def test_bytes_that_are_no_text_are_replaced(
    capsys: pytest.CaptureFixture[str], tinydoc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = ["--temperature", "0", "--max-tokens", "4", "--json"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The\r\n \xff \xe2\x82 \xc0\xaf")))
    expected = "The\r\n \ufffd \ufffd \ufffd\ufffd"
    code, text, _ = call(capsys, "run", tinydoc, *rest)
    assert (code, json.loads(text)["prompt"]) == (0, expected)
    code, text, _ = call(capsys, "run", tinydoc, os.fsdecode(b"The\r\n \xff \xe2\x82 \xc0\xaf"), *rest)
    assert (code, json.loads(text)["prompt"]) == (0, expected)


def test_inspect(capsys: pytest.CaptureFixture[str], tinydoc: Path) -> None:
    code, out, _ = call(capsys, "inspect", tinydoc)
    assert code == 0
    for expected in ("LlamaForCausalLM", "body_1", "packed_linear x16", "memory: weights", "lib/"):
        assert expected in out
    found = json.loads(call(capsys, "inspect", tinydoc, "--verify", "--json")[1])
    assert found["kernels"]["body_1"]["attention"] == 4


def test_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(capsys, "check", MODEL)[0] == 0
    broken = tmp_path / "broken"
    shutil.copytree(MODEL, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_act": "xielu", "surprise": 3}))
    (broken / "tokenizer.json").write_text("{")
    code, out, _ = call(capsys, "check", broken, "--json")
    errors = [p["what"] for p in json.loads(out)["problems"] if p["severity"] == "error"]
    assert code == 1
    assert len(errors) >= 3, "all problems are listed at once"


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == (1 if found["problems"] else 0)
    assert found["apache-tvm"] == "0.27.0.post1"
    assert found["target"].startswith("x86-64")


def test_compile_and_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))
    code, out, _ = call(capsys, "compile", MODEL, "--target", "native", "--json")
    assert code == 0
    path = Path(json.loads(out)["path"])
    assert path.is_dir()
    entries = json.loads(call(capsys, "cache", "list", "--json")[1])["entries"]
    assert [e["path"] for e in entries] == [str(path)]
    assert json.loads(call(capsys, "cache", "clear", "--older-than", 1, "--yes", "--json")[1])["removed"] == []
    assert path.is_dir()
    removed = json.loads(call(capsys, "cache", "clear", "--yes", "--json")[1])["removed"]
    assert [e["path"] for e in removed] == [str(path)]
    assert not path.exists()
    assert "removed 0 models" in call(capsys, "cache", "clear", "--yes")[1]


def test_random_weights_need_only_a_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "random.heddle"
    args = (MODEL / "config.json", "-o", output, "--random-weights", 3, "--dtype", "bfloat16", "--max-seqs", 4)
    args += ("--target", "native")
    code, out, err = call(capsys, "compile", *args)
    assert (code, err) == (0, ""), "no remains of a progress bar where stderr is no terminal"
    assert str(output) in out
    found = json.loads(call(capsys, "inspect", output, "--json")[1])
    assert (found["model"]["weight_dtype"], found["plan"]["max_seqs"]) == ("bfloat16", 4)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("run", "/nonexistent", "hi"), 1, "fix:"),
        (("compile", "/nonexistent"), 1, "not a model directory"),
        (("inspect", "/nonexistent"), 1, "not an artifact"),
        (("compile", MODEL, "--target", "vax"), 1, "unknown target 'vax'"),
        (("run", MODEL, "hi", "--temperature", "-1"), 1, "temperature"),
        (("compile", MODEL, "--dtype", "int3"), 2, "int3"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_errors_are_explained(
    capsys: pytest.CaptureFixture[str], args: tuple[object, ...], code: int, message: str
) -> None:
    found, _, err = call(capsys, *args)
    assert found == code
    assert message in err
    assert "Traceback" not in err


def test_tracebacks_are_shown_on_request_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise IndexError("surprise")

    monkeypatch.setattr("heddle.models.check.check_model", fail)
    code, _, err = call(capsys, "check", MODEL)
    assert (code, "unexpected IndexError: surprise" in err, "Traceback" in err) == (1, True, False)
    code, _, err = call(capsys, "--debug", "check", MODEL)
    assert (code, "Traceback" in err) == (1, True)


@pytest.mark.parametrize("swallow", ["not at all", "into a RuntimeError", "wholly"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_quietly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, swallow: str
) -> None:
    def stopped_while_working(_: Path) -> list[object]:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as error:  # what TVM's callbacks make of it
            if swallow == "not at all":
                raise
            if swallow == "into a RuntimeError":
                raise RuntimeError("from a callback") from error
        return []

    before = {kept: signal.getsignal(kept) for kept in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr("heddle.models.check.check_model", stopped_while_working)
    try:
        code, _, err = call(capsys, "check", MODEL)
    finally:
        for kept, handler in before.items():
            signal.signal(kept, handler)
    assert (code, err.strip()) == (128 + number, "")
