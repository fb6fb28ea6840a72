"""An encoder from its directory to embeddings: in Python, for many tasks, over HTTP and on the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

import heddle
from heddle import AsyncLLM, BeamSearchParams, HeddleError
from heddle.cli import main
from heddle.compiler.driver import compile_model
from heddle.llm import LLM
from heddle.runtime.artifact import open_artifact
from heddle.runtime.errors import RequestError

from .encoder_tools import save_encoder
from .server_tools import running
from .test_pooling import sentence_transformer

WORDS = "the cache is a line of text that each step reads and writes again with no end in sight".split()  # noqa: SIM905
TEXTS = [" ".join(WORDS[: 1 + i % 17] * (1 + i % 3)) for i in range(20)]

LONG = " ".join((WORDS * 5)[:90])


def save_tokenizer(folder: Path) -> None:
    """A WordPiece tokenizer of the words above, framed as BERT's."""
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"])}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"unk_token": "[UNK]", "mask_token": "[MASK]"}))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("encoder") / "model"
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": 2}
    save_encoder(folder, BertConfig(vocab_size=64, max_position_embeddings=96, **sizes), "BertModel")
    save_tokenizer(folder)
    return sentence_transformer(folder, "Pooling", "Normalize", do_lower_case=True, max_seq_length=20)


@pytest.fixture(scope="module")
def artifact(directory: Path) -> Path:
    return compile_model(directory, directory.parent / "model.heddle", max_tokens=64, max_seqs=8)


@pytest.fixture(scope="module")
def llm(artifact: Path) -> LLM:
    return LLM(artifact, threads=2)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def reference(directory: Path, texts: list[str], pooling: str, **options: Any) -> np.ndarray:
    """Pooled states float32[n, hidden] of padded texts by transformers."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    batch = AutoTokenizer.from_pretrained(directory)(texts, padding=True, return_tensors="pt", **options)
    with torch.no_grad():
        out = model(**batch)
    states, mask = out.last_hidden_state.numpy(), batch["attention_mask"].numpy()[..., None]
    if pooling == "pooler":
        return out.pooler_output.numpy()
    return states[:, 0] if pooling == "cls" else (states * mask).sum(1) / mask.sum(1)


def test_the_artifact(artifact: Path, directory: Path) -> None:
    manifest = open_artifact(artifact, "full").manifest
    assert manifest.model.kind == "encoder"
    assert [function.name for function in manifest.functions] == ["embed", "body"]
    (group,) = manifest.caches
    assert group.layers == group.record_shape[0] == 1  # whatever the number of layers
    assert (manifest.pooling.mode, manifest.pooling.normalize, manifest.pooling.max_tokens) == ("mean", True, 20)
    assert "logits rows * 0" in manifest.memory.formula


def test_embeddings_agree_with_transformers(llm: LLM, directory: Path) -> None:
    mean = reference(directory, TEXTS, "mean")
    found = llm.embed(TEXTS)
    assert found.dtype == np.float32
    assert np.abs(found - unit(mean)).max() < 1e-4
    for pooling in ("mean", "cls", "pooler"):
        expected = reference(directory, TEXTS, pooling)
        assert np.abs(llm.embed(TEXTS, pooling, False) - expected).max() < 1e-4 * np.abs(expected).max()
    assert llm.metrics.cached_tokens == 0


def test_a_text_alone_or_in_a_batch_has_the_same_bits(llm: LLM) -> None:
    together = llm.embed(TEXTS)
    assert np.array_equal(together, np.concatenate([llm.embed(text) for text in TEXTS]))
    assert np.array_equal(together, llm.embed(TEXTS[::-1])[::-1])


def test_long_texts(llm: LLM, directory: Path) -> None:
    with pytest.raises(RequestError, match=r"(?s)prompts\[0\]: the text has 92 tokens; a step takes 64.*max_tokens=96"):
        llm.embed(LONG)
    with pytest.raises(RequestError, match="the context holds 96"):
        llm.embed(LONG + LONG)
    for length in (3, 10, 64):
        expected = unit(reference(directory, [LONG], "mean", truncation=True, max_length=length))
        assert np.abs(llm.embed(LONG, truncate_prompt_tokens=length) - expected).max() < 1e-4
    assert np.array_equal(llm.embed(LONG, truncate_prompt_tokens=-1), llm.embed(LONG, truncate_prompt_tokens=20))
    assert np.array_equal(llm.embed("the cache", truncate_prompt_tokens=-1), llm.embed("the cache"))
    ids = llm.needed_tokenizer().encode(LONG)
    assert np.array_equal(llm.embed(ids, truncate_prompt_tokens=9), llm.embed(ids[:9]))
    with pytest.raises(RequestError, match="2 tokens have no room for a text"):
        llm.embed(LONG, truncate_prompt_tokens=2)


def test_what_an_encoder_does_not_do(llm: LLM, artifact: Path) -> None:
    for refused in (
        lambda: llm.generate("the cache"),
        lambda: next(iter(llm.stream("the cache"))),
        lambda: llm.beam_search("the cache", BeamSearchParams(beam_width=2, max_tokens=2)),
        lambda: llm.forward([[5, 6]]),
        lambda: llm.stream_logits([5, 6]),
    ):
        with pytest.raises(RequestError, match="this model is an encoder"):
            refused()
    with pytest.raises(ValueError, match="an encoder has no logits"):
        llm.runner.forward([], np.empty(0, np.int32), np.zeros(1, np.int32))


def test_async_and_server(artifact: Path, llm: LLM) -> None:
    expected = llm.embed(TEXTS)
    with AsyncLLM(artifact, threads=2, step_tokens=8) as model:  # less than a text has

        async def every() -> list[np.ndarray]:
            return await asyncio.gather(*(model.embed(text) for text in TEXTS))

        assert np.array_equal(np.array(asyncio.run(every())), expected)
        with running(model) as server:
            status, answer, _ = server.ask("/v1/embeddings", {"input": TEXTS})
            assert status == 200
            assert np.array_equal(np.array([e["embedding"] for e in answer["data"]], np.float32), expected)
            assert server.ask("/v1/embeddings", {"input": LONG})[0] == 400
            for given in (LONG, [5] * 70):
                body = {"input": given, "truncate_prompt_tokens": 12, "pooling": "pooler", "normalize": False}
                status, answer, _ = server.ask("/v1/embeddings", body)
                assert (status, answer["usage"]["prompt_tokens"]) == (200, 12)
                direct = llm.embed(given, "pooler", False, truncate_prompt_tokens=12)
                assert np.array_equal(np.array([answer["data"][0]["embedding"]], np.float32), direct)
            status, answer, _ = server.ask("/v1/embeddings", {"input": "x", "truncate_prompt_tokens": 65})
            assert (status, "allowed are 1 to 64" in answer["error"]["message"]) == (400, True)
            status, answer, _ = server.ask("/v1/completions", {"prompt": "the cache", "max_tokens": 2})
            assert (status, "this model is an encoder" in answer["error"]["message"]) == (400, True)


def test_command_line(artifact: Path, llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["embed", str(artifact), "the cache", "a line of text"])
    assert done.value.code == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["the cache", "a line of text"]
    found = np.array([line["embedding"] for line in lines], np.float32)
    assert np.array_equal(found, llm.embed(["the cache", "a line of text"]))
    with pytest.raises(SystemExit):
        main(["inspect", str(artifact)])
    assert "BertModel, an encoder" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["run", str(artifact), "the cache"])
    assert "ask for embeddings" in capsys.readouterr().err


def test_check_and_errors_of_compiling(directory: Path, tmp_path: Path) -> None:
    from heddle.models import check_model

    assert not [problem for problem in check_model(directory) if problem.severity == "error"]
    raw = json.loads((directory / "config.json").read_text())
    raw |= {"is_decoder": True, "position_embedding_type": "relative_key", "hidden_act": "gelu_10", "new_key": 1}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(HeddleError) as caught:
        heddle.compile_model(tmp_path, tmp_path / "out", random_weights=0)
    for part in ("is_decoder", "relative_key", "gelu_10", "new_key"):
        assert part in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"dtype": "float16"}, 5e-3),
        ({"quant": "w8a8"}, 5e-2),
        ({"quant": "w4a16-g32"}, 0.5),
        ({"kv_dtype": "int8"}, 5e-2),
    ],
)
def test_other_types(directory: Path, tmp_path: Path, llm: LLM, options: dict[str, Any], tolerance: float) -> None:
    other = LLM(compile_model(directory, tmp_path / "other.heddle", max_tokens=64, max_seqs=8, **options), threads=2)
    found = other.embed(TEXTS)
    assert np.abs(found - llm.embed(TEXTS)).max() < tolerance
    assert np.array_equal(found, np.concatenate([other.embed(text) for text in TEXTS]))
