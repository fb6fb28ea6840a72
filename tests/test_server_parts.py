"""Parts of the server alone: what a text's length says, what bodies may hold, and that nothing is left out of the page."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import click
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.cli.serve import command, default_name, server_threads
from heddle.runtime.errors import RequestError
from heddle.runtime.sampling import SamplingParams
from heddle.runtime.server import json_text
from heddle.runtime.server.schema.chat import ChatRequest
from heddle.runtime.server.schema.completions import CompletionRequest
from heddle.runtime.server.sse import Outbox, SlowReaderError
from heddle.runtime.text_bound import bytes_per_token, keeps_length
from heddle.runtime.tokenizer import Tokenizer

from .conftest import ROOT
from .tokenizers_for_tests import TINYDOC

TOKENIZER = Tokenizer.load(TINYDOC)


# Text and tokens


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_token_stands_for_more_than_the_bound(text: str) -> None:
    most = TOKENIZER.bytes_per_token
    assert most is not None
    assert len(text.encode()) <= most * len(TOKENIZER.encode(text))


@given(st.text(max_size=50))
def test_texts_that_keep_their_length(text: str) -> None:
    if keeps_length(text):
        assert len(unicodedata.normalize("NFC", text).encode()) >= len(text.encode())


def rules(**changes: object) -> dict[str, object]:
    model = {"type": "BPE", "vocab": {"a": 0, "\u2581abc": 1}, "byte_fallback": True}
    return {"model": model, "normalizer": None, "pre_tokenizer": None, "added_tokens": [], **changes}


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({}, 6),
        ({"added_tokens": [{"content": "<|im_start|>"}]}, 12),
        ({"added_tokens": [{"content": "<mask>", "lstrip": True}]}, None),
        ({"model": {"type": "BPE", "vocab": {"a": 0}}}, None),  # unknown characters are dropped
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}, "byte_fallback": True}}, None),
        ({"model": {"type": "BPE", "vocab": {"ab": 0}}, "pre_tokenizer": {"type": "ByteLevel"}}, 2),
        ({"pre_tokenizer": {"type": "Whitespace"}}, None),
        ({"pre_tokenizer": {"type": "Split", "behavior": "Removed"}}, None),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": "Isolated"}]}}, 6),
        ({"normalizer": {"type": "NFC"}}, 6),
        ({"normalizer": {"type": "NFKC"}}, None),
        ({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}}, 6),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "  "}, "content": " "}}, None),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": " "}, "content": "\u2581"}}, None),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend"}, {"type": "Strip"}]}}, None),
    ],
)
def test_bounds_of_tokenizers(changes: dict[str, object], bound: int | None) -> None:
    assert bytes_per_token(rules(**changes)) == bound


def test_a_text_that_grows_shorter_is_not_judged_by_its_length() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    assert bytes_per_token(json.loads(backend.to_str())) is None
    assert not keeps_length("e\u0301")


# Bodies


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists))
def test_json_that_is_written_is_read(value: object) -> None:
    try:
        data = json_text.encode(value).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    assert json_text.decode(data) == value


def test_every_sampling_field_can_be_sent_and_is_documented() -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    for field in dataclasses.fields(SamplingParams):
        name = "structured_outputs" if field.name == "structured" else field.name
        assert name in CompletionRequest.model_fields, f"a completion has no field {name}"
        assert name in ChatRequest.model_fields or name == "best_of", f"a chat has no field {name}"
        assert f"`{name}`" in page, f"docs/serving.md does not name {name}"
    for name in {*ChatRequest.model_fields, *CompletionRequest.model_fields} - {
        "model",
        "stream",
        "messages",
        "prompt",
        "max_completion_tokens",
        "top_logprobs",
        "response_format",
        "modalities",
        "suffix",
    }:
        assert f"`{name}`" in page, f"docs/serving.md does not name {name}"


def test_fields_reach_the_parameters() -> None:
    body = CompletionRequest(prompt="x", seed=-1, logit_bias={"7": 2.0}, stop="a", top_k=3, max_tokens=5)
    expected = SamplingParams(seed=(1 << 64) - 1, logit_bias={7: 2.0}, stop="a", top_k=3, max_tokens=5)
    assert body.params() == expected
    assert CompletionRequest(prompt="x").params() == SamplingParams()
    with pytest.raises(RequestError, match="logit_bias"):
        CompletionRequest(prompt="x", logit_bias={"1.5": 2.0}).params()


# The command


def test_options_are_documented() -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    for option in command.params:
        if isinstance(option, click.Option):
            assert f"`{option.opts[0]}`" in page, f"docs/serving.md does not name {option.opts[0]}"


def test_names_and_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_name(tmp_path / "llama.heddle") == "llama"
    monkeypatch.delenv("TVM_NUM_THREADS")
    assert server_threads(3) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr("heddle.runtime.threads.physical_cores", lambda: [0, 1, 2, 3])
    assert server_threads(None) == 3
    monkeypatch.setattr("heddle.runtime.threads.physical_cores", lambda: [0, 1])
    assert server_threads(None) == 2, "hyperthreads are left"
    monkeypatch.setenv("TVM_NUM_THREADS", "4")
    assert server_threads(None) == 4


def test_a_missing_package_is_explained() -> None:
    code = "import sys; sys.modules['fastapi'] = None; from heddle.cli import main; main(['serve', 'x'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "serving needs the package fastapi" in done.stderr
    assert "pip install 'heddle[serve]'" in done.stderr


def test_what_waits_for_a_client_is_bounded_but_for_one_part() -> None:
    async def check() -> None:
        box = Outbox(limit=10)
        box.put(b"a part of any size")
        with pytest.raises(SlowReaderError, match="19 bytes"):
            box.put(b"x")
        assert await box.take() == b"a part of any size"
        box.put(b"12345")
        box.put(b"67890")
        box.close()
        assert [await box.take(), await box.take()] == [b"1234567890", b""]

    asyncio.run(check())
