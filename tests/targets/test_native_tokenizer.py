"""The native tokenizer: the same ids and texts as the Python packages, token by token; what it refuses; damaged files."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from heddle.models.tokenization.pieces import sentencepiece_rules
from heddle.models.tokenization.sentencepiece import read_sentencepiece
from heddle.models.tokenization.splits import GGUF_SPLITS
from heddle.models.tokenization.tiktoken import ENCODINGS
from tests.native_fuzz import mutated
from tests.native_tokenizer_tools import (
    BEHAVIORS,
    MORE,
    PATTERNS,
    Rules,
    ask,
    byte_level_model,
    compare,
    hard_texts,
    ids_of,
    part,
    pieces_model,
    program,
    rules,
    split,
    written,
)
from tests.test_tokenization_files import loaded
from tests.tokenization_tools import MODELS, sentencepiece_model, texts, tinydoc, words
from tests.tokenizers_for_tests import byte_fallback

SPLITS = sorted({*GGUF_SPLITS.values(), *((encoding.pattern,) for encoding in ENCODINGS.values())})
CHARACTERS = [chr(code) for code in range(0x33480) if not 0xD800 <= code < 0xE000]


def from_sentencepiece(name: str) -> dict[str, Any]:
    rules = sentencepiece_rules(read_sentencepiece(sentencepiece_model(name)))
    return dict(json.loads(rules.to_json()))


def test_the_example_model() -> None:
    compare(tinydoc(), hard_texts(2000, 1))


def test_byte_fallback_and_the_frame() -> None:
    compare(byte_fallback().to_json(), hard_texts(1000, 2))


@pytest.mark.parametrize("name", MODELS)
def test_sentencepiece_models(name: str) -> None:
    compare(from_sentencepiece(name), hard_texts(1000, 3))


def test_word_piece(tmp_path: Path) -> None:
    files = {"config.json": {"model_type": "bert"}, "vocab.txt": "\n".join(words()) + "\n"}
    compare(loaded(tmp_path / "bert", files).to_json(), list(texts(1000, 4)))


@pytest.mark.parametrize("patterns", SPLITS, ids=range(len(SPLITS)))
def test_published_ways_to_split(patterns: tuple[str, ...]) -> None:
    steps = [*map(split, patterns), part("ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)]
    normalizer = part("NFC") if len(patterns) == 1 else None
    made = part("Sequence", pretokenizers=steps)
    compare(rules(byte_level_model(), normalizer=normalizer, pre_tokenizer=made), hard_texts(400, 5))


@pytest.mark.parametrize("behavior", BEHAVIORS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_becomes_of_matches(pattern: str, behavior: str) -> None:
    for invert in (False, True):
        compare(rules(pieces_model(), pre_tokenizer=split(pattern, behavior, invert)), hard_texts(60, 6))


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"\s", r"\S+", r"\w+", r"\W", r"\b", r"\d", r"\h", r"\p{L}", r"\p{N}", r"\p{P}", r"\p{S}", r"\p{M}"),
        *(r"\p{^L}", r"\p{Lu}\p{Ll}?", r"\p{Lo}|\p{Lm}|\p{Lt}", r"\p{Han}+", r"\p{Z}|\p{C}"),
        *("[[:space:]]", "[[:punct:]]", r"[^\W\d]"),
    ],
)
def test_classes_of_all_characters(pattern: str) -> None:
    compare_characters(pre_tokenizer=split(pattern))


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_normal_forms_of_all_characters(form: str) -> None:
    compare_characters(normalizer=part(form))


@pytest.mark.parametrize("kind", ["Whitespace", "WhitespaceSplit"])
def test_words_of_all_characters(kind: str) -> None:
    compare_characters(pre_tokenizer=part(kind))


def compare_characters(**parts: Any) -> None:
    """Each character after a letter, and between marks; ids only."""
    made = json.dumps(rules(pieces_model(), **parts))
    given = ["".join(f"a{c}1 {c}\u0301\u0327" for c in CHARACTERS[i : i + 20]) for i in range(0, len(CHARACTERS), 20)]
    python = tokenizers.Tokenizer.from_str(made)
    for text, found in zip(given, ids_of(made, [text.encode() for text in given]), strict=True):
        assert found == b"=" + written(python.encode(text).ids), text


@pytest.mark.parametrize("seed", range(60))
def test_rules_put_together_at_random(seed: int) -> None:
    models = [
        byte_level_model(ignore_merges=bool(seed % 2)),
        from_sentencepiece("llama")["model"],
        from_sentencepiece("unigram")["model"],
        pieces_model(),
    ]
    compare(Rules(seed).make(models), [*texts(60, seed), *MORE])


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("option", ["lstrip", "rstrip", "single_word"])
def test_what_stands_beside_an_added_token(option: str, normalized: bool) -> None:
    options = dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False) | {
        option: True,
        "normalized": normalized,
    }
    token = {"id": 256, "content": "<x>", **options}
    given = [f"a{c}<x>{c}b <x>{c}" for c in CHARACTERS[:0x3100]] + ["<x><x>  <x>\n <x>", "  <x>  ", "<x>"]
    compare(rules(pieces_model(), added_tokens=[token], normalizer=part("Lowercase")), given[::7] + given[-3:])


def test_bytes_that_are_no_text() -> None:
    rng = random.Random(7)
    kinds = [bytes([byte]) for byte in range(256)] + ["é".encode(), "世".encode(), "😀".encode(), b"a"]
    given = [b"".join(rng.choices(kinds, k=12)) for _ in range(2000)]
    given += [b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x9f\x98", b"\xf0\x9f\x98a"]
    source = json.dumps(tinydoc())
    python = tokenizers.Tokenizer.from_str(source)
    for data, found in zip(given, ids_of(source, given), strict=True):
        assert found == b"=" + written(python.encode(data.decode("utf-8", "replace")).ids), data


def test_long_texts_take_memory_in_proportion() -> None:
    """Ten million characters without a place to cut: merging them pair by pair takes n log n steps."""
    for name in ("llama", "unigram"):
        data = json.dumps(from_sentencepiece(name)).encode()
        process = subprocess.Popen([program()], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin
        assert process.stdout
        for kind, sent in (("j", data), ("e", b"ab " * 3_333_333)):
            process.stdin.write(b"%s%d\n%s" % (kind.encode(), len(sent), sent))
            process.stdin.flush()
            head = process.stdout.readline()
            assert head.startswith(b"=")
            process.stdout.read(int(head[1:]))
        peak = Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0]
        process.communicate()
        assert int(peak) < 800_000  # kB


REFUSED = [
    ({"model": part("Lattice")}, "model.type is 'Lattice'", "known are BPE, Unigram, WordPiece, WordLevel"),
    ({"model": {}}, "model.type is missing", "copy the tokenizer's files again"),
    ({"model": part("BPE", vocab={"a": 0}, merges=["a b"])}, "model.merges[0] merges 'a' and 'b'", "vocabulary lacks"),
    ({"model": part("BPE", vocab={"a": -1}, merges=[])}, "model.vocab gives the token 'a' no id from 0", "copy"),
    ({"model": part("BPE", vocab={"a": 2**24}, merges=[])}, "gives the token 'a' no id from 0 to 16777215", "copy"),
    ({"model": part("BPE", vocab={}, merges=[], dropout=0.1)}, "dropout asks for random merges", "different tokens"),
    ({"model": part("Unigram", vocab=[["a", 0.0]], unk_id=1)}, "model.unk_id must be an integer from 0 to 0", "copy"),
    ({"model": part("Unigram", vocab=[["a"]])}, "model.vocab[0] must be a token and its score", "copy"),
    ({"normalizer": part("Uppercase")}, "normalizer.type is 'Uppercase'", "run this model by the Python runtime"),
    ({"normalizer": part("Precompiled", precompiled_charsmap="AAA=")}, "precompiled_charsmap is truncated", "copy"),
    ({"pre_tokenizer": part("UnicodeScripts")}, "pre_tokenizer.type is 'UnicodeScripts'", "Python runtime"),
    ({"pre_tokenizer": split(r"\X")}, r"a regular expression with \X", "Python runtime"),
    ({"pre_tokenizer": split("(a")}, "a regular expression that cannot be used", "missing closing parenthesis"),
    ({"pre_tokenizer": split("a", "Kept")}, "behavior must be one of Removed, Isolated,", "found 'Kept'"),
    ({"pre_tokenizer": split("(*ACCEPT)a")}, "a regular expression with a verb", "Python runtime"),
    ({"pre_tokenizer": part("Sequence", pretokenizers=[part("WhitespaceSplit")] * 60_000)}, "at most 64 steps", "copy"),
    (
        {"post_processor": part("TemplateProcessing", single=[{"Sequence": {"id": "A"}}] * 2)},
        "single[1] must be",
        "copy",
    ),
    ({"decoder": part("CTC")}, "decoder.type is 'CTC'", "known are Sequence, ByteLevel, ByteFallback"),
    ({"post_processor": part("Pairs")}, "post_processor.type is 'Pairs'", "known are"),
    ({"added_tokens": [{"id": 0}]}, "added_tokens[0].content is missing", "copy"),
]


@pytest.mark.parametrize(("parts", "what", "why"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_is_not_known_is_refused_by_name(parts: dict[str, Any], what: str, why: str) -> None:
    (message,) = ask([("j", json.dumps(rules(pieces_model()) | parts).encode())])
    assert message.startswith(b"!tokenizer.json.")
    assert what in message.decode()
    assert why in message.decode()


def test_characters_that_no_token_stands_for() -> None:
    """Refused where the model has no unknown token, as by the Python package."""
    model = part("Unigram", vocab=[["a", -1.0]], unk_id=None)
    (message,) = ids_of(json.dumps(rules(model)), [b"b"])
    assert message.startswith(b"!")
    assert b"its model has no unknown token" in message


DOUBLE = part("Replace", pattern={"String": "a"}, content="aa")


@pytest.mark.parametrize(
    ("parts", "kind", "given"),
    [
        ({"normalizer": part("Sequence", normalizers=[DOUBLE] * 40)}, "e", b"a"),
        ({"normalizer": part("Replace", pattern={"String": "a"}, content="b" * 100_000)}, "e", b"a" * 100_000),
        ({"decoder": part("Sequence", decoders=[DOUBLE] * 40)}, "d", b"97"),
        (
            {
                "pre_tokenizer": part(
                    "Sequence", pretokenizers=[part("ByteLevel", add_prefix_space=False, use_regex=False)] * 40
                )
            },
            "e",
            "é".encode(),
        ),
    ],
    ids=["normalizers", "normalizer", "decoders", "pre-tokenizers"],
)
def test_rules_that_make_texts_too_long(parts: dict[str, Any], kind: str, given: bytes) -> None:
    """A few rules can double a character until no memory is left: refused long before."""
    made = rules(pieces_model()) | parts
    made["model"] = part("WordLevel", vocab={chr(i): i for i in range(128)}, unk_token="u")
    loaded, message = ask([("j", json.dumps(made).encode()), (kind, given)])
    assert loaded == b"="
    assert message.startswith(b"!a text of ")
    assert b"too long for the tokenizer" in message


@pytest.mark.parametrize("option", ["lstrip", "rstrip"])
def test_tokens_of_spaces_among_spaces(option: str) -> None:
    """Each takes the spaces beside it; that they are walked over once shows in the time limit of a test."""
    token = {"id": 256, "content": " "} | dict.fromkeys(
        ("lstrip", "rstrip", "single_word", "special", "normalized"), False
    )
    made = rules(pieces_model(), added_tokens=[token | {option: True}])
    (found,) = ids_of(json.dumps(made), [b" " * 1_000_000])
    assert found.startswith(b"=")
    assert len(set(found[1:].split())) == 1


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files(seed: int) -> None:
    """Refused or used, never a crash, by the program with sanitizers."""
    rng = random.Random(seed)
    whole = [tinydoc(), from_sentencepiece("llama"), from_sentencepiece("unigram"), Rules(seed).make([pieces_model()])]
    given = [
        b"",
        b"\xff\xfe\x00",
        "世a\u0301 ½ﬁ the".encode(),
        b"x" * 300 + b"y",
        *(t.encode() for t in texts(3, seed)),
    ]
    records = []
    for _ in range(150):
        chosen = json.loads(json.dumps(rng.choice(whole)))
        model = chosen["model"]
        kept = {name: model.pop(name) for name in ("vocab", "merges") if name in model and rng.random() < 0.9}
        data = mutated(json.dumps(chosen).encode(), rng)
        try:
            value = json.loads(data)
            value["model"] |= kept
            data = json.dumps(value).encode()
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        records += [
            ("j", data),
            *(("E", text) for text in given),
            *((kind, b"0 1 -5 2147483647 300 99 4") for kind in "dDiI"),
        ]
    answers = ask(records, checked=True)
    assert len(answers) == len(records)
    assert {answer[:1] for answer in answers} == {b"=", b"!"}
