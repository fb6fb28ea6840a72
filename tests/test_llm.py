"""The Python interface on a runner that computes nothing: arguments in all their forms, order, streams, and errors."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import heddle
import heddle.opening
from heddle.llm import LLM
from heddle.runtime.errors import ArtifactError, RequestError
from heddle.runtime.null_runner import history_logits
from heddle.runtime.sampling import SamplingParams
from heddle.runtime.tokenizer import TokenizerError

from .llm_tools import null_artifact

PARAMS = SamplingParams(seed=4, max_tokens=12)
PROMPTS = ["The cache", "import numpy", "x"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return null_artifact(tmp_path, monkeypatch)


@pytest.fixture
def llm(folder: Path) -> Iterator[LLM]:
    model = LLM(folder)
    yield model
    model.engine.check_integrity()
    assert not model.engine.has_work, "a call left a request behind"
    assert not model._sinks


def tokens(llm: LLM, prompts: Any, params: Any = PARAMS) -> list[tuple[int, ...]]:
    return [output.outputs[0].token_ids for output in llm.generate(prompts, params)]


def test_prompts_in_all_forms(llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids = [llm.tokenizer.encode(prompt) for prompt in PROMPTS]
    one_by_one = [tokens(llm, prompt)[0] for prompt in PROMPTS]
    assert tokens(llm, PROMPTS) == tokens(llm, tuple(PROMPTS)) == one_by_one
    assert tokens(llm, ids) == tokens(llm, [np.array(i) for i in ids]) == one_by_one
    assert tokens(llm, [PROMPTS[0], ids[1]]) == one_by_one[:2]
    assert tokens(llm, ids[1]) == tokens(llm, np.array(ids[1], np.int64)) == one_by_one[1:2]
    assert tokens(llm, []) == []


def test_outputs_are_in_order_and_complete(llm: LLM) -> None:
    """More prompts than sequences in a step, the first the longest: the last ones finish first."""
    prompts = [PROMPTS[0] * (8 - i) for i in range(8)]
    params = [SamplingParams(temperature=0, max_tokens=20 - 2 * i) for i in range(8)]
    outputs = llm.generate(prompts, params)
    assert [output.prompt for output in outputs] == prompts
    assert [len(output.outputs[0].token_ids) for output in outputs] == [20 - 2 * i for i in range(8)]
    assert all(output.finished for output in outputs)
    assert llm.tokenizer is not None
    assert outputs[0].prompt_token_ids == tuple(llm.tokenizer.encode(prompts[0]))
    assert llm.stats.decode.decode_tokens > 0


def test_defaults_are_those_of_sampling_params(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heddle.runtime.admission.secrets.randbits", lambda bits: 7)  # the seed of who gives none
    found = llm.generate("x")[0].outputs[0].token_ids
    assert found == llm.generate("x", SamplingParams(seed=7))[0].outputs[0].token_ids
    assert (
        len(llm.generate("x", SamplingParams(ignore_eos=True))[0].outputs[0].token_ids) == SamplingParams().max_tokens
    )


def test_progress_bar(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(PROMPTS, PARAMS, progress=True)
    out, err = capsys.readouterr()
    assert "3/3" in err
    assert out == ""


def test_streams(llm: LLM) -> None:
    expected = llm.generate(PROMPTS[0], PARAMS)[0].outputs[0].text
    assert "".join(llm.stream(PROMPTS[0], PARAMS)) == expected
    pieces = llm.stream(PROMPTS[0], PARAMS)
    begin = next(pieces)
    assert tokens(llm, PROMPTS) == tokens(llm, PROMPTS)  # other calls go on while a stream is open, and feed it
    assert begin + "".join(pieces) == expected


def test_closing_a_stream_aborts_it(llm: LLM) -> None:
    pieces = llm.stream(PROMPTS[0], dataclasses.replace(PARAMS, max_tokens=200))
    next(pieces)
    assert llm.engine.has_work
    pieces.close()  # type: ignore[attr-defined]
    assert not llm.engine.has_work


def test_a_stream_checks_its_request_at_once(llm: LLM) -> None:
    with pytest.raises(RequestError, match="prompt is empty"):
        llm.stream("", PARAMS)


def test_forward_gives_all_logits_in_one_ragged_batch(llm: LLM) -> None:
    sequences = [[1, 2, 3], list(range(70)), [9]]
    for chunk in (None, 1, 7):
        llm.runner.calls.clear()
        logits = llm.forward(sequences, chunk=chunk)
        for found, ids in zip(logits, sequences, strict=True):
            assert found.dtype == np.float32
            assert np.array_equal(found, history_logits(np.array(ids), 4096))
        assert len(llm.runner.calls[0]) == (3 if chunk else 2)  # as many sequences as the token budget takes
    assert llm.forward([]) == []


def test_logits_come_in_pieces(llm: LLM) -> None:
    ids = list(range(70))
    expected = history_logits(np.array(ids), 4096)
    for first, chunk in ((0, None), (0, 16), (33, 16), (69, 7)):
        pieces = llm.stream_logits(ids, first, chunk)
        position, logits = next(pieces)
        tokens(llm, PROMPTS)  # other calls may step the engine in between; the pieces stay as they were
        found = [(position, logits), *pieces]
        assert [p for p, _ in found] == list(first + np.cumsum([0, *[len(rows) for _, rows in found[:-1]]]))
        assert max(len(rows) for _, rows in found) <= (chunk or 48)
        assert np.array_equal(np.concatenate([rows for _, rows in found]), expected[first:])
    abandoned = llm.stream_logits(ids, chunk=8)
    next(abandoned)
    abandoned.close()
    assert not llm.engine.has_work
    llm.runner.fail_next = RuntimeError("the device is on fire")
    with pytest.raises(RuntimeError, match="on fire"):
        next(llm.stream_logits(ids))
    with pytest.raises(RequestError, match="from position 70 on"):
        llm.stream_logits(ids, 70)


def test_chat(llm: LLM) -> None:
    assert llm.tokenizer is not None
    talk = [{"role": "user", "content": "Hi"}]
    prompt = llm.tokenizer.apply_chat_template(talk)
    alone = llm.chat(talk, PARAMS)
    assert [output.prompt for output in alone] == [prompt]
    assert alone[0].outputs[0].token_ids == tokens(llm, prompt)[0]
    both = llm.chat([talk, [*talk, {"role": "assistant", "content": "Yes?"}]], PARAMS)
    assert both[0].outputs == alone[0].outputs
    assert len(both) == 2


@pytest.mark.parametrize(
    ("prompts", "params", "message"),
    [
        (["ok", ""], None, r"prompts\[1\]: the prompt is empty"),
        ([[1], [4096]], None, r"prompts\[1\]: token id 4096 at position 0 is out of range; the model knows 0 to 4095"),
        ([[1] * 300], None, r"prompts\[0\]: the prompt has 300 tokens; the context holds 256"),
        ([[]], None, r"prompts\[0\]: the prompt is empty"),
        ([1.5], None, r"prompts\[0\]: token ids must be one flat list"),
        (3, None, "prompts is a int"),
        (b"x", None, "prompts is a bytes"),
        (["a", "b"], [PARAMS], "1 sampling_params for 2 prompts"),
        ("a", {"temperature": 0}, "must be a SamplingParams"),
        ("a", 3, "must be a SamplingParams"),
    ],
)
def test_bad_prompts(llm: LLM, prompts: Any, params: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        llm.generate(prompts, params)


@pytest.mark.parametrize("ids", ["text", ["text"], [1, 2], [[1], []], [[1, 5000]], [[[1]]]])
def test_bad_sequences(llm: LLM, ids: Any) -> None:
    with pytest.raises(RequestError, match=r"forward takes a list of lists|token_ids\[\d\]: "):
        llm.forward(ids)


def test_an_error_while_running_is_raised_and_leaves_nothing(llm: LLM) -> None:
    llm.runner.fail_next = RuntimeError("the device is on fire")
    with pytest.raises(RuntimeError, match="on fire"):
        llm.generate(PROMPTS * 3, PARAMS)
    assert not llm.engine.has_work
    llm.runner.fail_next = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS, PARAMS)
    assert not llm.engine.has_work
    llm.runner.fail_next = RuntimeError("still burning")
    with pytest.raises(RuntimeError, match="burning"):
        list(llm.stream("x"))


def test_without_a_tokenizer_there_are_only_tokens(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    llm = LLM(folder)
    assert llm.generate([[5]], PARAMS)[0].outputs[0].text == ""
    for call in (lambda: llm.generate("x"), lambda: llm.stream("x"), lambda: llm.chat([{"role": "user"}])):
        with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
            call()


# The package


def test_load_never_compiles(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        heddle.load(tmp_path)


def test_importing_heddle_is_cheap() -> None:
    """Neither TVM nor NumPy is imported before it is needed; names that do not exist are told."""
    code = (
        "import heddle, sys; print(heddle.__version__); print(sorted({'tvm', 'tvm_ffi', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [heddle.__version__, "[]"]
    assert set(heddle.__all__) <= set(dir(heddle))
    with pytest.raises(AttributeError, match="'heddle' has no attribute 'LMM'; it has LLM"):
        heddle.LMM  # noqa: B018
