"""What heddle-run refuses: wrong usage with code 2, what cannot be served with code 1, always with an explanation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.artifact_tools import copy_artifact
from tests.conftest import ROOT
from tests.native_tools import ask, call, heddle_run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no artifact is given"),
        (["MODEL", "--top-q", "1"], "there is no option --top-q"),
        (["MODEL", "-5"], "a prompt that begins with a dash"),
        (["MODEL", "--top-k"], "--top-k needs a value"),
        (["MODEL", "--top-k", "many"], "it must be a whole number"),
        (["MODEL", "--top-k", "-2"], "it must be a whole number, -1 or more"),
        (["MODEL", "--max-tokens", "100000000000"], "it must be a whole number, 1 to 2147483647"),
        (["MODEL", "--seed", "18446744073709551616"], "it must be a whole number"),
        (["MODEL", "--temperature", "warm"], "it must be a number"),
        (["MODEL", "--threads", "0"], "1 or more"),
        (["MODEL", "--kv-memory", "2 pints"], "it must be a size"),
        (["MODEL", "--kv-memory", "-1GB"], "it must be a size"),
        (["MODEL", "--json=yes"], "--json takes no value"),
        (["MODEL", "--bench", "2", "a prompt"], "take no prompt"),
        (["MODEL", "--lengths", "1,,2"], "1 or more"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], message: str) -> None:
    done = call(heddle_run(), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "heddle-run --help" in done.stderr
    assert done.stdout == ""
    if "--json=yes" not in arguments:
        error = json.loads(
            call(heddle_run(), *arguments, "--json").stdout or call(heddle_run(), "--json", *arguments).stdout
        )
        assert error["error"]["type"] == "UsageError"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["/nonexistent", "hi"], "ArtifactError", "is not an artifact"),
        ([str(ROOT), "hi"], "ArtifactError", "is not an artifact"),
        (["MODEL", "hi", "--target", "vax"], "ArtifactError", "vax"),
        (["MODEL", "hi", "--temperature", "-1"], "RequestError", "temperature"),
        (["MODEL", "hi", "--temperature", "nan"], "RequestError", "temperature"),
        (["MODEL", "hi", "--top-p", "0"], "RequestError", "top_p"),
        (["MODEL", "hi", "--top-p", "1.5"], "RequestError", "top_p"),
        (["MODEL", "hi", "--min-p", "2"], "RequestError", "min_p"),
        (["MODEL", "hi", "--typical-p", "0"], "RequestError", "typical_p"),
        (["MODEL", "hi", "--repetition-penalty", "0"], "RequestError", "repetition_penalty"),
        (["MODEL", "hi", "--presence-penalty", "3"], "RequestError", "presence_penalty"),
        (["MODEL", "hi", "--frequency-penalty", "-3"], "RequestError", "frequency_penalty"),
        (["MODEL", "hi", "--min-tokens", "9", "--max-tokens", "8"], "RequestError", "min_tokens"),
        (["MODEL", "hi", "--stop", ""], "RequestError", "stop"),
        (["MODEL", "--ids", "4096"], "RequestError", "4096"),
        (["MODEL", "--ids", ""], "RequestError", "prompt"),
        (["MODEL", "fine", "word " * 4000], "RequestError", "context"),
        (["MODEL", "hi", "--kv-memory", "1kB"], "", "page"),
        (["MODEL", "word " * 400, "--kv-memory", "1MB"], "RequestError", "pages"),
        (["MODEL", "hi", "--kv-memory", "900000GB"], "PoolError", "memory"),
        (["MODEL", "hi", "--threads", "100000"], "", "threads"),
    ],
)
def test_errors_are_explained(tinydoc: Path, arguments: list[str], kind: str, message: str) -> None:
    given = [str(tinydoc) if a == "MODEL" else a for a in arguments]
    done = call(heddle_run(), *given)
    assert done.returncode == 1
    assert done.stderr.startswith("heddle-run: ")
    assert message in done.stderr
    assert any(
        part in done.stderr for part in ("\n  why: ", "\n  fix: ", "; allowed is ", " at most ", "an empty text")
    )
    assert done.stdout == ""
    error = json.loads(call(heddle_run(), *given, "--json").stdout)["error"]
    assert sorted(error) == ["fix", "type", "what", "why"]
    assert kind in ("", error["type"])
    assert message in " ".join(error.values())


def test_a_model_without_a_tokenizer_takes_ids(tinydoc: Path, tmp_path: Path) -> None:
    artifact = copy_artifact(tinydoc, tmp_path)
    manifest = json.loads((artifact / "manifest.json").read_text())
    for name in [name for name in manifest["files"] if name.startswith("tokenizer")]:
        del manifest["files"][name]
        (artifact / name).unlink()
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    settings = ["--ids", "--temperature=0", "--max-tokens=4"]
    expected = ask(heddle_run(), tinydoc, "5,6,7", *settings)["outputs"][0]["token_ids"]
    assert ask(heddle_run(), artifact, "5,6,7", *settings)["outputs"][0]["token_ids"] == expected
    done = call(heddle_run(), artifact, "hi")
    assert done.returncode == 1
    assert "tokenizer" in done.stderr
