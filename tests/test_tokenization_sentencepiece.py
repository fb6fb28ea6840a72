"""SentencePiece models: the pieces that the sentencepiece package gives, and files that are none."""

from __future__ import annotations

import math

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.models import ModelError
from heddle.models.tokenization.pieces import sentencepiece_rules
from heddle.models.tokenization.sentencepiece import Kind, Piece, Pieces, read_sentencepiece

from .tokenization_tools import MODELS, sentencepiece_model, texts


def ours(data: bytes) -> tokenizers.Tokenizer:
    rules = sentencepiece_rules(read_sentencepiece(data))
    return tokenizers.Tokenizer.from_str(rules.to_json().decode())


def compare(name: str, count: int, seed: int) -> None:
    """Token by token; with unigram two ways of equal score are the same."""
    data = sentencepiece_model(name)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    mine = ours(data)
    trims = MODELS[name].get("remove_extra_whitespaces", True)
    for text in texts(count, seed):
        expected, found = theirs.encode(text), mine.encode(text, add_special_tokens=False).ids
        if expected != found and MODELS[name]["model_type"] == "unigram":
            assert math.isclose(
                sum(map(theirs.get_score, expected)), sum(map(theirs.get_score, found)), rel_tol=1e-6
            ), text
        else:
            assert found == expected, text
        if theirs.unk_id() not in found:
            decoded, again = mine.decode(found, skip_special_tokens=False), theirs.decode(found)
            if trims:  # SentencePiece then trims what it decodes, too
                decoded, again = decoded.lstrip(), again.lstrip()
            assert decoded == again, text


@pytest.mark.parametrize("name", MODELS)
def test_the_pieces_of_sentencepiece(name: str) -> None:
    compare(name, 600, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_pieces_of_sentencepiece_in_many_texts(name: str) -> None:
    compare(name, 20_000, 2)


def test_what_a_file_says() -> None:
    model = read_sentencepiece(sentencepiece_model("gemma"))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model("gemma"))
    assert [piece.text for piece in model.pieces] == [theirs.id_to_piece(i) for i in range(theirs.get_piece_size())]
    assert [piece.score for piece in model.pieces] == [theirs.get_score(i) for i in range(theirs.get_piece_size())]
    assert (model.algorithm, model.add_dummy_prefix, model.remove_extra_whitespaces) == ("bpe", False, False)
    assert (model.byte_fallback, model.charsmap, model.unknown) == (True, b"", 3)
    assert (model.bos, model.eos) == ("<bos>", "<eos>")
    assert model.pieces[0].kind == Kind.CONTROL
    assert read_sentencepiece(sentencepiece_model("bpe")).charsmap


def test_a_space_in_front_of_the_text_only() -> None:
    """`legacy: false`: not after special tokens, and not where there is one."""
    rules = sentencepiece_rules(read_sentencepiece(sentencepiece_model("llama")), first_only=True)
    mine = tokenizers.Tokenizer.from_str(rules.to_json().decode())
    assert mine.encode("the", add_special_tokens=False).tokens == mine.encode(" the", add_special_tokens=False).tokens
    assert mine.encode("the<s>the").tokens[-1] != mine.encode("the").tokens[-1]
    before = ours(sentencepiece_model("llama")).encode("the<s>the").tokens
    assert before[0] == before[-1] == "▁the"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"model_type": "word"}, "its algorithm is word; unigram and bpe can be read"),
        ({"model_type": "char"}, "its algorithm is char"),
        ({"model_type": "bpe", "treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
    ],
)
def test_models_without_a_like(option: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "odd", {"vocab_size": 200, "hard_vocab_limit": False, **option})
    sentencepiece_model.cache_clear()
    with pytest.raises(ModelError, match=message):
        read_sentencepiece(sentencepiece_model("odd"))
    sentencepiece_model.cache_clear()


@pytest.mark.parametrize(
    "data", [b"", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x05ab", b"\x07", b"{}"]
)
def test_files_that_are_none(data: bytes) -> None:
    with pytest.raises(ModelError, match="SentencePiece model"):
        read_sentencepiece(data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_read(data: st.DataObject) -> None:
    """No other error than ModelError comes of bytes that were changed or cut off."""
    whole = bytearray(sentencepiece_model("bpe")[-4000:] + sentencepiece_model("bpe")[:4000])
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = read_sentencepiece(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except ModelError:
        return
    assert model.pieces


def test_contradictions() -> None:
    with pytest.raises(ModelError, match="tokens are there twice: 'a'"):
        sentencepiece_rules(Pieces([Piece("a", 0), Piece("a", 1)], "bpe"))
    with pytest.raises(ModelError, match="tokens of single bytes are missing"):
        sentencepiece_rules(Pieces([Piece("a", 0)], "bpe", byte_fallback=True))
