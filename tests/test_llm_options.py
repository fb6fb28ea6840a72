"""Options of LLM and of its requests, on a runner that computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import heddle.llm
import heddle.opening
from heddle.arguments import byte_count, memory_share
from heddle.llm import LLM
from heddle.runtime.errors import HeddleError, RequestError
from heddle.runtime.sampling import SamplingParams, UnknownOptionError

from .llm_tools import SCHEMES, TABLES, null_artifact
from .test_llm import PARAMS, PROMPTS, tokens


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return null_artifact(tmp_path, monkeypatch)


@pytest.fixture
def llm(folder: Path) -> Iterator[LLM]:
    model = LLM(folder)
    yield model
    model.engine.check_integrity()
    assert not model.engine.has_work


# Options of LLM


def test_options_reach_the_runner_and_the_engine(folder: Path) -> None:
    llm = LLM(str(folder), None, 2, kv_memory="2KiB", chunk=5, context_length=20)
    assert (llm.runner.threads, llm.runner.kv_bytes) == (2, 2048)
    assert LLM(folder, context_length=40).runner.kv_bytes == 6000  # two contexts of three pages each
    assert LLM(folder).runner.kv_bytes is None
    llm.generate([[1] * 12], SamplingParams(max_tokens=50))
    assert llm.runner.calls[0] == [(0, 5)]
    assert sum(rows for call in llm.runner.calls for _, rows in call) == 19


@pytest.mark.parametrize(
    "quant",
    [
        None,
        "w4a8",
        "w4a8-g32",
        {"*": "w4a8", "lm_head": "w8a8"},  # the embedding goes with the head
        {"*": "w4a8-g32", "embed": "w8a8", "lm_head": "w8a8-pc"},
        {"layers.*": "w4a8", "lm_head": "w8a8", "embed": "w8a8"},
    ],
)
def test_an_equal_quant_is_accepted(folder: Path, quant: Any) -> None:
    LLM(folder, quant)
    LLM(folder, quant=quant)


@pytest.mark.parametrize(
    ("quant", "message"),
    [
        ("w4a16", "the scheme 'w8a8-pc' at embed, asked for is 'w8a16-pc'"),
        ("w4a8-g64", "the scheme 'w4a8-g32' at layers.0.attn.q, asked for is 'w4a8-g64'"),
        ("none", "asked for is 'none'"),
        ({}, "asked for is 'none'"),
        ({"*": "w4a8"}, "the scheme 'w8a8-pc' at embed, asked for is 'w4a8-g32'"),
        ({"*": "w4a8", "lm_head": "w8a8", "embed": "w4a8"}, "asked for is 'w4a8-g32'"),
        ({"*": "w4a8", "*_head": "w8a8", "layers.0.mlp.down": "none"}, "at layers.0.mlp.down, asked for is 'none'"),
    ],
)
def test_another_quant_is_refused(folder: Path, quant: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"(?s){message}.*leave quant out, or compile the model again with it"):
        LLM(folder, quant)


@pytest.mark.parametrize("quant", ["", "w3a8", {"*": "w4a9"}, {"layers.7.*": "w4a8"}])
def test_a_quant_that_means_nothing_is_an_error(folder: Path, quant: Any) -> None:
    with pytest.raises(HeddleError, match="unknown quantization scheme|match(es)? no site of this model"):
        LLM(folder, quant)


def test_quant_of_an_artifact_with_two_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedding and head are apart: the embedding no longer goes with the head."""
    monkeypatch.setitem(TABLES, "head", "lm_head.weight.w4-g32.codes")
    monkeypatch.setitem(SCHEMES, "lm_head", "w4a8-g32")
    LLM(folder, {"*": "w4a8", "embed": "w8a8"})
    with pytest.raises(RequestError, match="the scheme 'w8a8-pc' at embed, asked for is 'w4a8-g32'"):
        LLM(folder, {"*": "w4a8"})


def test_an_unknown_option_lists_the_nearest(folder: Path) -> None:
    with pytest.raises(UnknownOptionError, match="'kv_type': did you mean kv_dtype"):
        LLM(folder, kv_type="float16")
    with pytest.raises(TypeError, match="LLM has no option 'tensor_parallel_size'"):
        LLM(folder, tensor_parallel_size=2)


def test_options_that_an_artifact_has_fixed(folder: Path) -> None:
    LLM(folder, dtype="float16", kv_dtype="float32", max_tokens=48, max_seqs=3)
    wrong: list[dict[str, Any]] = [
        {"dtype": "float32"},
        {"kv_dtype": "float16"},
        {"max_seqs": 4},
        {"random_weights": 1},
    ]
    for options in wrong:
        with pytest.raises(RequestError, match=f"was compiled with {next(iter(options))}="):
            LLM(folder, **options)


@pytest.mark.parametrize(
    ("text", "count"), [(5, 5), ("7", 7), ("2KB", 2000), ("1.5 MiB", 3 << 19), ("1gb", 10**9), ("3 B", 3)]
)
def test_sizes(text: int | str, count: int) -> None:
    assert byte_count("kv_memory", text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1", 0, -3, "0MB", "1 TiBs", True, 1.5, None])
def test_bad_sizes(text: Any) -> None:
    with pytest.raises(RequestError, match="kv_memory is"):
        byte_count("kv_memory", text)


def test_shares(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heddle.opening, "share_bytes", lambda artifact, share: round(1000 * share))
    assert LLM(folder, kv_memory="50%").runner.kv_bytes == 500  # type: ignore[attr-defined]
    assert [memory_share(size) for size in (" 12.5 % ", "100%", "2GB", 7)] == [0.125, 1, None, None]
    for size in ("0%", "100.5%"):
        with pytest.raises(RequestError, match="a share of the memory is over 0% and at most 100%"):
            memory_share(size)


def test_options_of_the_engine(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    llm = LLM(folder, policy="priority", preemption="swap", swap_memory="2KiB", prefix_cache=False, trace=trace)
    llm.generate(PROMPTS, PARAMS)
    engine = llm.engine
    assert (engine.policy, engine.kv.prefix_cache, engine.kv.num_swappable) == ("priority", False, 2048 // 128)
    llm.engine.close()
    assert '"policy":"priority"' in trace.read_text()
    assert len(trace.read_text().splitlines()) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "lifo"}, "policy is 'lifo'; allowed are 'fcfs'"),
        ({"preemption": "swap"}, "give swap_memory"),
        ({"swap_memory": "1GB"}, "nothing is swapped"),
        ({"preemption": "swap", "swap_memory": "much"}, "swap_memory is 'much'; allowed are bytes over 0"),
        ({"preemption": "forget"}, "preemption is 'forget'"),
        ({"max_waiting": 0}, "max_waiting is 0"),
        ({"kv_memory": "200%"}, "at most 100%"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_bad_options_of_the_engine(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        LLM(folder, **options)


def test_identity_is_that_of_weights_code_and_cache(llm: LLM) -> None:
    manifest: Any = llm.artifact.manifest
    names = {heddle.opening.identity(llm.artifact)}
    for change in (
        lambda: setattr(manifest.files["weights.safetensors"], "sha256", "other"),
        lambda: setattr(manifest.files["lib/test.so"], "sha256", "other"),
        lambda: setattr(manifest.model, "kv_dtype", "int8"),
    ):
        change()
        names.add(heddle.opening.identity(llm.artifact))
    assert len(names) == 4


def test_options_of_requests(llm: LLM) -> None:
    """One value for all, or one for each prompt."""
    first, second = llm.generate([[7] * 40, [7] * 40], PARAMS, salt=["a", "b"])
    assert first.outputs == second.outputs
    assert [first.num_cached_tokens, second.num_cached_tokens] == [0, 0]
    (third,) = llm.generate([[7] * 40], PARAMS, salt="b", tenant="t", priority=3, timeout=60)
    assert third.num_cached_tokens == 39
    assert third.metrics is not None
    assert third.metrics.queue_seconds >= 0
    assert llm.metrics.cached_tokens == 39
    assert llm.metrics.running == llm.metrics.waiting == 0
    (late,) = llm.generate("x", SamplingParams(max_tokens=200, ignore_eos=True), timeout=1e-9)
    assert late.outputs[0].finish_reason == "timeout"
    for options, message in (
        ({"salt": ["a"]}, "1 values of salt for 2 prompts"),
        ({"priority": "x"}, r"prompts\[0\]: priority is 'x'"),
        ({"timeout": [1.0, -1]}, r"prompts\[1\]: timeout is -1"),
        ({"tenant": [1, 2]}, r"prompts\[0\]: tenant is 1"),
    ):
        with pytest.raises(RequestError, match=message):
            llm.generate(["a", "b"], PARAMS, **options)  # type: ignore[arg-type]


def test_priorities_decide_who_is_first(folder: Path) -> None:
    llm = LLM(folder, policy="priority")
    outputs = llm.generate([[i] for i in range(1, 9)], PARAMS, priority=[8 - i for i in range(8)])
    begins = [output.metrics.first_token for output in outputs if output.metrics]
    assert begins == sorted(begins, reverse=True)  # type: ignore[type-var]


def test_a_bounded_queue_holds_no_batch_up(folder: Path, llm: LLM) -> None:
    prompts = [[i, i + 1] for i in range(1, 20)]
    narrow = LLM(folder, max_waiting=1)
    assert tokens(narrow, prompts) == tokens(llm, prompts)


def test_tools(folder: Path, llm: LLM) -> None:
    talk = [{"role": "user", "content": "Hi"}]
    tools = [{"type": "function", "function": {"name": "add"}}]
    with pytest.raises(RequestError, match="the model's chat template leaves tools out"):
        llm.chat(talk, PARAMS, tools=tools)
    for wrong, message in (("add", "tools is a str"), ([1], r"tools\[0\] is 1"), ({"a": 1}, "tools is a dict")):
        with pytest.raises(RequestError, match=message):
            llm.chat(talk, PARAMS, tools=wrong)  # type: ignore[arg-type]
    (folder / "chat_template.jinja").write_text("{{ tools | tojson if tools }}{{ mood }}{{ messages[0].content }}")
    taught = LLM(folder)
    assert taught.chat(talk, PARAMS, tools=tools, mood="glad")[0].prompt == (
        '[{"type": "function", "function": {"name": "add"}}]gladHi'
    )
    assert taught.chat(talk, PARAMS, tools=[])[0].prompt == "Hi"
    with pytest.raises(RequestError, match=r"conversations\[1\]: .*messages\[0\] is 3"):
        taught.chat([talk, [3]], PARAMS)  # type: ignore[list-item]
