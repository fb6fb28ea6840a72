"""Tokenizers in GGUF metadata: the ids of the tokenizers that the metadata was made of."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tiktoken
import tokenizers

from heddle.models import ModelError
from heddle.models.tokenization import gguf_tokenizer
from heddle.models.tokenization.byte_level import ALPHABET
from heddle.models.tokenization.sentencepiece import Kind, Pieces, read_sentencepiece
from heddle.models.tokenization.splits import GGUF_SPLITS
from heddle.models.tokenization.wordpiece import wordpiece_rules

from .tokenization_tools import sentencepiece_model, texts, tinydoc, words

Metadata = dict[str, Any]


def keys(**values: Any) -> Metadata:
    return {f"tokenizer.{name.replace('__', '.')}": value for name, value in values.items()}


def of_pieces(model: Pieces, kind: str) -> Metadata:
    """As llama.cpp's converter writes a SentencePiece model: user-defined symbols with spaces."""
    shown = [p.text.replace("▁", " ") if p.kind == Kind.USER_DEFINED else p.text for p in model.pieces]
    return keys(
        ggml__model=kind,
        ggml__tokens=shown,
        ggml__scores=np.array([p.score for p in model.pieces], np.float32),
        ggml__token_type=np.array([p.kind for p in model.pieces], np.int32),
        ggml__add_space_prefix=model.add_dummy_prefix,
        ggml__remove_extra_whitespaces=model.remove_extra_whitespaces,
    )


def of_tinydoc(pre: str = "gpt-2") -> Metadata:
    vocab = tinydoc()["model"]["vocab"]
    return keys(
        ggml__model="gpt2",
        ggml__pre=pre,
        ggml__tokens=sorted(vocab, key=vocab.__getitem__),
        ggml__token_type=[3] * 3 + [1] * (len(vocab) - 3),
        ggml__merges=[" ".join(pair) for pair in tinydoc()["model"]["merges"]],
        ggml__eos_token_id=np.uint32(2),
        ggml__padding_token_id=0,
        chat_template="{{ messages }}",
    )


def made(metadata: Metadata) -> tuple[tokenizers.Tokenizer, dict[str, Any], dict[str, Any]]:
    """The tokenizer, its configuration, and the generation defaults."""
    files = gguf_tokenizer(metadata)
    config, generation = (json.loads(files[f"{name}_config.json"]) for name in ("tokenizer", "generation"))
    return tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode()), config, generation


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_sentencepiece_bpe(name: str) -> None:
    data = sentencepiece_model(name)
    first = 2 if name == "gemma" else 1
    metadata = of_pieces(read_sentencepiece(data), "llama")
    if name == "gemma":
        metadata |= keys(ggml__bos_token_id=2, ggml__eos_token_id=1, ggml__unknown_token_id=3, ggml__padding_token_id=0)
    mine, config, generation = made(metadata)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in texts(300, 6):
        assert mine.encode(text, add_special_tokens=False).ids == theirs.encode(text), text
        assert mine.encode(text).ids == [first, *theirs.encode(text)]
    assert config["bos_token"] == ("<bos>" if name == "gemma" else "<s>")
    assert generation == {"eos_token_id": [3 - first], "bos_token_id": first}


def test_sentencepiece_unigram() -> None:
    """T5's kind: EOS behind a text."""
    data = sentencepiece_model("unigram")
    model = read_sentencepiece(data)
    metadata = of_pieces(model, "t5") | keys(
        ggml__precompiled_charsmap=np.frombuffer(model.charsmap, np.int8),
        ggml__eos_token_id=2,
        ggml__unknown_token_id=0,
    )
    mine, config, _ = made(metadata)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in texts(300, 7):
        found, expected = mine.encode(text).ids, [*theirs.encode(text), 2]
        scores = (sum(map(theirs.get_score, ids)) for ids in (found, expected))
        assert found == expected or math.isclose(*scores, rel_tol=1e-6), text
    assert config["eos_token"] == "</s>"


def test_byte_level_is_the_original() -> None:
    mine, config, generation = made(of_tinydoc())
    theirs = tokenizers.Tokenizer.from_str(json.dumps(tinydoc()))
    for text in texts(300, 8):
        text += "<|im_start|>user\n"
        assert mine.encode(text).ids == theirs.encode(text).ids
        assert mine.decode(mine.encode(text).ids) == theirs.decode(theirs.encode(text).ids)
    assert (config["eos_token"], config["pad_token"], config["chat_template"]) == (
        "<|im_end|>",
        "<|endoftext|>",
        "{{ messages }}",
    )
    assert "bos_token" not in config
    assert generation == {"eos_token_id": [2, 0]}


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-4o", "tekken", "qwen35"])
def test_patterns_of_one_part_as_tiktoken_cuts_them(pre: str) -> None:
    letters = {letter: byte for byte, letter in ALPHABET.items()}
    vocab = sorted(tinydoc()["model"]["vocab"].items(), key=lambda item: item[1])[3:]
    ranks = {bytes(letters[letter] for letter in text): number for text, number in vocab}
    theirs = tiktoken.Encoding(pre, pat_str=GGUF_SPLITS[pre][0], mergeable_ranks=ranks, special_tokens={})
    mine, *_ = made(of_tinydoc(pre) | keys(ggml__add_bos_token=False))
    nfc = tokenizers.normalizers.NFC()
    different = 0
    for text in texts(300, 9):
        given = nfc.normalize_str(text) if pre.startswith("qwen") else text
        found = mine.encode(text).ids
        different += found != theirs.encode(given)
        assert mine.decode(found) == given
    assert different <= 3  # merges of tinydoc are not all that its tokens would allow


@pytest.mark.parametrize("pre", sorted({patterns: name for name, patterns in GGUF_SPLITS.items()}.values()))
def test_every_pattern_keeps_the_text(pre: str) -> None:
    mine, *_ = made(of_tinydoc(pre) | keys(ggml__add_bos_token=False))
    for text in [*texts(20, 10), "1234567 a1b2", "日本語テキスト 中文", "ÀÉ don't HTTPServer's", "a\r\n\r\n  b\n"]:
        assert mine.decode(mine.encode(text).ids) == tokenizers.normalizers.NFC().normalize_str(text)


def test_bert() -> None:
    vocab = {word: i for i, word in enumerate(words())}
    phantom = {word: word if word[0] == "[" else word[2:] if word[:2] == "##" else f"▁{word}" for word in vocab}
    metadata = keys(
        ggml__model="bert",
        ggml__tokens=[phantom[word] for word in vocab],
        ggml__token_type=[3] * 5 + [1] * (len(vocab) - 5),
        **{f"ggml__{name}_token_id": i for i, name in enumerate(["padding", "unknown", "cls", "seperator", "mask"])},
    )
    mine, config, _ = made(metadata)
    theirs = tokenizers.Tokenizer.from_str(wordpiece_rules(vocab).to_json().decode())
    for text in texts(300, 11):
        assert mine.encode(text).ids == theirs.encode(text).ids
    assert mine.encode("a").tokens == ["[CLS]", "a", "[SEP]"]
    assert (config["cls_token"], config["mask_token"]) == ("[CLS]", "[MASK]")


def test_what_stands_around_a_text() -> None:
    def framed(**values: Any) -> list[str]:
        return (
            made(of_tinydoc() | keys(ggml__bos_token_id=1, ggml__seperator_token_id=0, **values))[0].encode("a").tokens
        )

    assert framed() == ["a"]
    assert framed(ggml__add_bos_token=True, ggml__add_eos_token=True) == ["<|im_start|>", "a", "<|im_end|>"]
    assert framed(ggml__pre="llama-bpe") == ["<|im_start|>", "a"]
    assert framed(ggml__pre="llama-bpe", ggml__add_bos_token=False, ggml__add_sep_token=True) == ["a", "<|endoftext|>"]


def test_templates_by_name() -> None:
    metadata = of_tinydoc() | keys(chat_templates=["tool_use"], chat_template__tool_use="{{ tools }}")
    named = made(metadata)[1]["chat_template"]
    assert named == [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": "{{ tools }}"}]


def test_a_whole_tokenizer_in_the_file() -> None:
    files = gguf_tokenizer(of_tinydoc() | keys(huggingface__json=json.dumps(tinydoc())))
    assert json.loads(files["tokenizer.json"]) == tinydoc()


def test_a_file_without_a_tokenizer() -> None:
    assert gguf_tokenizer({}) == gguf_tokenizer({"tokenizer.ggml.model": "none"}) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ggml__model": "rwkv"}, "tokenizer.ggml.model is 'rwkv'"),
        ({"ggml__pre": "kimi-k2"}, "tokenizer.ggml.pre is 'kimi-k2'"),
        ({"ggml__tokens": []}, "tokens is missing or empty"),
        ({"ggml__tokens": ["a", "b", "a"], "ggml__token_type": [1] * 3}, "tokens are there twice: 'a'"),
        ({"ggml__token_type": [1]}, "token_type has 1 entries for 4096 tokens"),
        ({"ggml__merges": ["a", "a b c"]}, "merges name"),
        ({"ggml__scores": [0.0], "ggml__token_type": [1]}, "has 2 problems"),
    ],
)
def test_metadata_that_cannot_be_used(change: Metadata, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        gguf_tokenizer(of_tinydoc() | keys(**change))


def test_metadata_of_the_wrong_types() -> None:
    """Whatever stands under a key: a tokenizer comes of it, or a ModelError."""
    odd = ["x", b"x", -1, 1 << 70, 1.5, math.nan, True, [], ["a"], [1], [None], np.zeros(3), {"a": 1}, None]
    for kind in ("gpt2", "llama", "bert", "t5"):
        metadata = of_tinydoc() | keys(ggml__model=kind, chat_templates=["a"], ggml__precompiled_charsmap=b"")
        metadata |= dict.fromkeys(
            (f"tokenizer.ggml.{name}" for name in ("scores", "add_space_prefix", "bos_token_id")), 0
        )
        for name, value in itertools.product([key for key in metadata if not key.endswith(".model")], odd):
            small = {**metadata, "tokenizer.ggml.tokens": ["a", "b", "[UNK]"], "tokenizer.ggml.merges": [], name: value}
            with contextlib.suppress(ModelError):
                assert "tokenizer.json" in gguf_tokenizer(small)
