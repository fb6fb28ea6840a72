"""Perplexity and comparisons: against NumPy and transformers, what windows may not change, and the commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import heddle
from heddle.compiler.driver import compile_model
from heddle.evaluate import compare, kl_divergence, load, log_probabilities, losses_of, perplexity
from heddle.llm import LLM
from heddle.runtime.errors import HeddleError, RequestError
from heddle.runtime.tokenizer import Tokenizer, TokenizerError
from heddle.windows import tokenize
from tests.conftest import ROOT
from tests.model_tools import reference_logits
from tests.test_cli import call

MODEL = ROOT / "examples" / "tinydoc"
FILE = ROOT / "LICENSE"
TEXT = FILE.read_text("utf-8")[:6000]


@pytest.fixture(scope="module")
def llm(tinydoc: Path) -> LLM:
    return heddle.LLM(tinydoc, threads=2)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A build cache of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEDDLE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def floats(cache: None) -> LLM:
    """The example model with a float32 KV cache."""
    return load(MODEL, window=300, kv_dtype="float32", threads=2)


@pytest.fixture(scope="module")
def int8(cache: None) -> LLM:
    """The example model with an int8 KV cache."""
    return load(MODEL, window=300, kv_dtype="int8", threads=2)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the example's shape, with a tokenizer in which two tokens have changed places."""
    source = tmp_path_factory.mktemp("stranger") / "source"
    shutil.copytree(MODEL, source)
    tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (source / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return compile_model(source, source.parent / "model.heddle", random_weights=1)


def plain_losses(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """-log p of tokens[1:] by logits of tokens[:-1], as a textbook has it."""
    p = np.exp(logits.astype(np.float64))
    return -np.log(p[np.arange(len(tokens) - 1), tokens[1:]] / p.sum(1))


# Against other ways to the same number


def test_perplexity_is_that_of_forward(llm: LLM) -> None:
    found = perplexity(llm, TEXT, window=256, stride=100, max_tokens=600)
    ids = np.array(llm.tokenizer.encode(TEXT)[:600])  # type: ignore[union-attr]
    expected = []
    done = 1
    for begin in range(0, 600, 100):
        end = min(begin + 256, 600)
        losses = plain_losses(llm.forward([ids[begin : end - 1]])[0], ids[begin:end])
        expected.append(losses[len(losses) - (end - done) :])
        done = end
        if end == 600:
            break
    assert len(expected) == 5
    np.testing.assert_allclose(found.losses, np.concatenate(expected), rtol=1e-12)
    assert found.perplexity == pytest.approx(np.exp(np.concatenate(expected).mean()), rel=1e-12)
    assert found.windows.positions.tolist() == list(range(1, 600))


def test_perplexity_is_that_of_transformers(floats: LLM) -> None:
    """Disjoint windows without a leading token, and windows that each begin with token 0."""
    ids = np.array(tokenize(floats, TEXT, max_tokens=1024).ids)
    for lead in ([], [0]):
        parts = [np.concatenate([np.array(lead, np.int64), part]) for part in np.split(ids, 4)]
        logits = reference_logits(MODEL, [part[:-1] for part in parts])
        expected = np.concatenate([plain_losses(x, part) for x, part in zip(logits, parts, strict=True)])
        size = len(parts[0])
        found = perplexity(floats, TEXT, window=size, stride=256, max_tokens=1024, prefix=lead)
        assert found.windows.scored == len(expected) == 4 * (size - 1)
        assert np.abs(found.losses - expected).max() < 1e-3
        assert found.perplexity == pytest.approx(np.exp(expected.mean()), rel=1e-4)


def test_bits_per_byte(llm: LLM) -> None:
    text = "Naïve users · 中文 · wrote 3 documents.\n" * 3
    ids = llm.tokenizer.encode(text)  # type: ignore[union-attr]
    led = perplexity(llm, text, prefix=[0])
    assert len(led.losses) == len(ids)
    assert led.text.bytes == len(text.encode()) > len(text)
    assert led.bits_per_byte == pytest.approx(led.losses.sum() / np.log(2) / len(text.encode()))
    bare = perplexity(llm, text)  # its first token is not scored, and stands for a mean one
    assert len(bare.losses) == len(ids) - 1
    assert bare.bits_per_byte == pytest.approx(bare.losses.mean() * len(ids) / np.log(2) / len(text.encode()))
    short = perplexity(llm, text, max_tokens=7)
    assert short.text.bytes == len(llm.tokenizer.decode(ids[:7]).encode())  # type: ignore[union-attr]


def test_divergence_of_a_small_case() -> None:
    p, q = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    logits = [np.log(p).astype(np.float32) + np.float32(3), np.log(q).astype(np.float32) - np.float32(40)]
    log_p, log_q = map(log_probabilities, logits)
    np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-6)
    expected = 0.5 * np.log(2) - 0.25 * np.log(2)
    np.testing.assert_allclose(kl_divergence(log_p, log_q), [expected, 0], atol=1e-6)
    np.testing.assert_allclose(losses_of(log_p, np.array([0, 2])), [np.log(2), -np.log(0.8)], rtol=1e-6)
    far = log_probabilities(np.array([[3e38, -3e38]], np.float32))  # neither overflows nor becomes NaN
    assert far[0, 0] == 0
    assert kl_divergence(far, far).tolist() == [0.0]
    assert kl_divergence(far, far[:, ::-1])[0] > 1e38
    work = np.empty((2, 2, 3))
    assert np.array_equal(log_probabilities(logits[0], work[0], work[1]), log_p)
    assert np.array_equal(kl_divergence(log_p, log_q, work[1]), kl_divergence(log_p, log_q))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(HeddleError, match="not finite"):
        log_probabilities(np.array([[0, bad, 1]], np.float32))


# What may not change the result


def test_what_windows_do_not_change(llm: LLM) -> None:
    """Bit by bit: strides of a text in one window, tokens whose context is the same, the text's end, pieces."""
    whole = perplexity(llm, TEXT, window=512, stride=256, max_tokens=400)
    for stride in (1, 17, 511):
        assert np.array_equal(perplexity(llm, TEXT, window=512, stride=stride, max_tokens=400).losses, whole.losses)
    narrow = perplexity(llm, TEXT, window=128, stride=64, max_tokens=400)
    assert np.array_equal(narrow.losses[:127], whole.losses[:127])
    assert not np.array_equal(narrow.losses[127:], whole.losses[127:])
    assert np.array_equal(perplexity(llm, TEXT, window=128, stride=64, max_tokens=200).losses, narrow.losses[:199])
    # A stride of 1 gives each token the longest context; on a text it cannot do much worse.
    longest = perplexity(llm, TEXT, window=128, stride=1, max_tokens=400)
    assert longest.cross_entropy < narrow.cross_entropy + 0.02
    assert llm.engine.has_work is False


def test_small_pieces_are_the_same(llm: LLM, int8: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits in pieces of 16 rows and blocks of 3; two engines that cut their steps differently."""
    expected = compare(llm, int8, TEXT, window=256, stride=200, max_tokens=500)
    monkeypatch.setattr("heddle.evaluate.PIECE_BYTES", 1)
    monkeypatch.setattr("heddle.evaluate._BLOCK", 3 * 4096)
    steps = iter([5, 7] * 100)
    stream = int8.stream_logits
    monkeypatch.setattr(int8, "stream_logits", lambda ids, first, chunk: stream(ids, first, next(steps)))
    found = compare(llm, int8, TEXT, window=256, stride=200, max_tokens=500)
    for name in ("divergence", "agree"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-15)
    for one, two in ((found.a, expected.a), (found.b, expected.b)):
        np.testing.assert_allclose(one.losses, two.losses, rtol=1e-12)


def test_progress(llm: LLM) -> None:
    seen: list[tuple[str, int, int]] = []
    found = perplexity(llm, TEXT, window=64, stride=32, max_tokens=150, progress=lambda *a: seen.append(a))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})
    assert seen[-1] == ("scoring", found.windows.scored, 149)


# Comparisons


def test_a_model_is_itself(llm: LLM, tinydoc: Path) -> None:
    for second in (llm, load(tinydoc, window=128, threads=1)):
        found = compare(llm, second, TEXT, window=128, stride=64, max_tokens=300)
        assert not found.divergence.any()
        assert found.agree.all()
        assert np.array_equal(found.a.losses, found.b.losses)
        summary = found.summary()
        assert (summary["kl_mean"], summary["kl_max"], summary["top1_agreement"]) == (0, 0, 1)
        assert (summary["perplexity_ratio"], summary["cross_entropy_difference_error"]) == (1, 0)
    assert np.array_equal(found.a.losses, perplexity(llm, TEXT, window=128, stride=64, max_tokens=300).losses)


def test_int8_pages_are_near_float_pages(int8: LLM, floats: LLM) -> None:
    assert [m.artifact.manifest.model.kv_dtype for m in (int8, floats)] == ["int8", "float32"]
    found = compare(floats, int8, TEXT, window=256, max_tokens=1000)
    ids = tokenize(int8, TEXT, max_tokens=1000).ids
    rows = [m.forward([ids[:255]])[0].astype(np.float64) for m in (floats, int8)]
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in rows)
    np.testing.assert_allclose(found.divergence[:255], (p * np.log(p / q)).sum(1), rtol=1e-6, atol=1e-12)
    assert np.array_equal(found.agree[:255], p.argmax(1) == q.argmax(1))
    summary = found.summary()
    assert 0 < summary["kl_mean"] < 1e-3
    levels = [*summary["kl_percentiles"].values(), summary["kl_max"]]
    assert levels == sorted(levels)
    assert levels[0] == pytest.approx(np.median(found.divergence))
    assert 0.97 < summary["top1_agreement"] <= 1
    assert summary["perplexity_ratio"] == pytest.approx(found.b.perplexity / found.a.perplexity)
    assert summary["perplexity_ratio"] == pytest.approx(1, abs=2e-3)
    assert found.divergence.any()


def test_models_that_cannot_be_compared(llm: LLM, stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = heddle.LLM(stranger, threads=2)
    with pytest.raises(RequestError, match=r"(?s)vocabularies differ: .* in A, .* in B.*why: .*fix: compare artifacts"):
        compare(llm, second, TEXT)
    second.tokenizer = llm.tokenizer
    assert compare(llm, second, TEXT, max_tokens=100).divergence.mean() > 0.1
    second.tokenizer = None
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        compare(llm, second, TEXT)
    second.tokenizer = led = Tokenizer.load(MODEL)
    plain = led.encode
    monkeypatch.setattr(led, "encode", lambda text, add_special_tokens=True: [0] * add_special_tokens + plain(text))
    with pytest.raises(RequestError, match=r"(?s)A begins a text with \[\], that of B with \[0\].*--bos none"):
        compare(llm, second, TEXT)
    assert compare(llm, second, TEXT, max_tokens=50, prefix=[]).a.windows.scored == 49
    assert perplexity(second, TEXT, max_tokens=50).text.prefix == (0,)
    monkeypatch.setattr(led, "encode", lambda text, add_special_tokens=True: [*plain(text)[:9], 5])
    with pytest.raises(RequestError, match="cut the text differently, first at token 9"):
        compare(llm, second, TEXT, prefix=[])
    monkeypatch.setattr(second.runner, "info", type(llm.runner.info)(5000, 2048, 64, 8, 99, 16))
    with pytest.raises(RequestError, match="the vocabularies have 4096 and 5000 tokens"):
        compare(llm, second, TEXT)


# Options that cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, r"window is 1; allowed are 2 to 2048"),
        ({"window": 1, "prefix": [0]}, r"window is 1; allowed are 2 to 2048"),
        ({"window": 2049}, r"window is 2049; allowed are 2 to 2048"),
        ({"window": 64, "stride": 0}, r"stride is 0; allowed are 1 to 64"),
        ({"window": 64, "stride": 65}, r"stride is 65; allowed are 1 to 64"),
        ({"window": 64, "stride": 64, "prefix": [0]}, r"stride is 64; allowed are 1 to 63"),
        ({"max_tokens": 0}, r"max_tokens is 0"),
        ({"max_tokens": 2}, r"of the 2 tokens of the text 1 can be scored; at least 2"),
        ({"prefix": [4096]}, r"leading token 4096 is out of range; the model knows 0 to 4095"),
        ({"prefix": [-1]}, r"leading token -1 is out of range"),
    ],
)
def test_bad_options(llm: LLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        perplexity(llm, TEXT, **options)


# The commands


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT[:1500], "utf-8")
    return path


def test_perplexity_command(
    capsys: pytest.CaptureFixture[str], tinydoc: Path, llm: LLM, file: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "tokens.jsonl"
    sizes = ("--window", 200, "--stride", 50, "--threads", 2)
    code, out, err = call(capsys, "eval", "perplexity", tinydoc, "--text", file, *sizes, "--per-token", lines, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    expected = perplexity(llm, TEXT[:1500], window=200, stride=50)
    assert {name: found[name] for name in expected.summary()} == expected.summary()
    rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert [row["nats"] for row in rows] == expected.losses.tolist()
    assert "".join(row["text"] for row in rows) in TEXT
    assert [row["position"] for row in rows] == list(range(1, found["tokens"]))
    code, out, _ = call(capsys, "eval", "perplexity", tinydoc, "--text", file, *sizes, "--bos", 0, "--max-tokens", 300)
    assert code == 0
    assert "300 of 300 tokens" in out
    assert "windows of 200 with stride 50, [0] in front of each" in out
    assert "bits a byte" in out


def test_compare_command(
    capsys: pytest.CaptureFixture[str], tinydoc: Path, int8: LLM, file: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "tokens.jsonl"
    other = int8.artifact.path
    args = ("eval", "compare", tinydoc, other, "--text", file, "--window", 128, "--threads", 2)
    code, out, err = call(capsys, *args, "--per-token", lines, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert found["kl_mean"] == pytest.approx(np.mean([row["kl"] for row in rows]))
    assert found["top1_agreement"] == np.mean([row["agree"] for row in rows])
    assert found["b"]["cross_entropy"] == pytest.approx(np.mean([row["nats_b"] for row in rows]))
    assert found["models"] == [str(tinydoc), str(other)]
    code, out, _ = call(capsys, *args)
    assert code == 0
    for expected in ("A  perplexity", "B  perplexity", "perplexity of B over A", "KL(A || B)  mean", "same likeliest"):
        assert expected in out


def test_commands_pass_the_kv_dtype_on(capsys: pytest.CaptureFixture[str], file: Path, int8: LLM, floats: LLM) -> None:
    sizes = ("--text", file, "--window", 64, "--max-tokens", 100, "--json")
    text, most = TEXT[:1500], {"window": 64, "max_tokens": 100}
    _, out, _ = call(capsys, "eval", "compare", MODEL, MODEL, "--kv-dtype-a", "float32", "--kv-dtype-b", "int8", *sizes)
    assert json.loads(out)["kl_mean"] == compare(floats, int8, text, **most).summary()["kl_mean"] > 0  # type: ignore[arg-type]
    _, out, _ = call(capsys, "eval", "perplexity", MODEL, "--kv-dtype", "int8", *sizes)
    assert json.loads(out)["cross_entropy"] == perplexity(int8, text, **most).cross_entropy  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("perplexity", MODEL), 2, "Missing option '--text'"),
        (("perplexity", MODEL, "--text", "/nonexistent"), 1, "/nonexistent cannot be read"),
        (("perplexity", "/nonexistent", "--text", FILE), 1, "fix:"),
        (("perplexity", MODEL, "--text", MODEL / "model.safetensors"), 1, "is not a text"),
        (("perplexity", MODEL, "--text", FILE, "--bos", "yes"), 2, "neither auto nor none nor a token id"),
        (("perplexity", MODEL, "--text", FILE, "--per-token", "/nonexistent/x"), 2, "No such file"),
        (("compare", MODEL, "--text", FILE), 2, "Missing argument 'B'"),
        (("compare", MODEL, "/nonexistent", "--text", FILE), 1, "fix:"),
    ],
)
def test_errors_of_commands(
    capsys: pytest.CaptureFixture[str], args: tuple[object, ...], code: int, message: str
) -> None:
    found, _, err = call(capsys, "eval", *args)
    assert found == code
    assert message in err
    assert "Traceback" not in err


def test_errors_of_commands_with_artifacts(
    capsys: pytest.CaptureFixture[str], tinydoc: Path, stranger: Path, file: Path
) -> None:
    for args, message in (
        (("compare", tinydoc, stranger), "vocabularies differ"),
        (("perplexity", tinydoc, "--window", 4000), "window is 4000; allowed are 2 to 2048"),
        (("perplexity", tinydoc, "--window", 0), "window is 0"),
        (("perplexity", tinydoc, "--kv-dtype", "int8"), "was compiled with kv_dtype="),
    ):
        code, _, err = call(capsys, "eval", *args, "--text", file)
        assert (code, message in err, "Traceback" in err) == (1, True, False), err
