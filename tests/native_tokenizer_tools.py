"""The native tokenizer as tests use it, beside the Python packages, and rules of tokenizers put together at random."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from heddle.runtime.detokenize import IncrementalDecoder
from heddle.runtime.tokenizer import Tokenizer

from .native_tools import ENVIRONMENT, installed, sanitized
from .tokenization_tools import texts, tinydoc

Record = tuple[str, bytes]
"""A kind, as the source of heddle_tokenize lists them, and what goes with it."""


def program(checked: bool = False) -> Path:
    """heddle_tokenize; `checked`: with sanitizers."""
    prefix = sanitized().parent.parent if checked else installed()
    return prefix.parent / "build" / "tools" / "heddle_tokenize"


def ask(records: Iterable[Record], checked: bool = False) -> list[bytes]:
    """An answer to each record: `=` and ids or a text, or `!` and a message."""
    sent = b"".join(b"%s%d\n%s" % (kind.encode(), len(data), data) for kind, data in records)
    done = subprocess.run(
        [program(checked)], input=sent, capture_output=True, env=os.environ | ENVIRONMENT, timeout=500
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-4000:]
    answers, at = [], 0
    while at < len(done.stdout):
        start = done.stdout.index(b"\n", at) + 1
        end = start + int(done.stdout[at + 1 : start])
        answers.append(done.stdout[at : at + 1] + done.stdout[start:end])
        at = end
    return answers


def ids_of(source: str, given: Sequence[bytes]) -> list[bytes]:
    """The answers for texts to encode, by these rules."""
    loaded, *found = ask([("j", source.encode()), *(("e", text) for text in given)])
    assert loaded == b"=", loaded
    return found


def written(ids: Sequence[int]) -> bytes:
    return " ".join(map(str, ids)).encode()


def compare(rules: dict[str, Any] | str, given: Sequence[str], seed: int = 0) -> None:
    """The same ids of texts; the same texts of these ids and of random ones, whole and piece by piece."""
    source = rules if isinstance(rules, str) else json.dumps(rules)
    python = Tokenizer(tokenizers.Tokenizer.from_str(source), {})
    encoded = [python.encode(text, frame) for text in given for frame in (False, True)]
    random_ = random.Random(seed)
    unsure = [
        [random_.randrange(python.vocab_size + 2) for _ in range(random_.randrange(12))] for _ in range(len(given))
    ]
    records: list[Record] = [(kind, text.encode()) for text in given for kind in "eE"]
    records += [(kind, written(ids)) for ids in encoded + unsure for kind in "dDiI"]
    expected = [written(ids) for ids in encoded]
    for ids in encoded + unsure:
        expected += [python.decode(ids, skip).encode() for skip in (False, True)]
        for skip in (False, True):
            pieces = IncrementalDecoder(python, skip)
            expected.append(("".join(pieces.push(i) + "\x1f" for i in ids) + pieces.finish()).encode())
    loaded, *found = ask([("j", source.encode()), *records])
    assert loaded == b"=", loaded
    for record, want, got in zip(records, expected, found, strict=True):
        assert got == b"=" + want, record


def part(kind: str, **options: Any) -> dict[str, Any]:
    return {"type": kind, **options}


def rules(model: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A tokenizer.json."""
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", "added_tokens": [], **empty, **parts, "model": model}


def pieces_model() -> dict[str, Any]:
    """A model whose tokens show the pieces that it got: bytes, with two more before each character but a piece's first."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    return part("BPE", vocab=vocab, merges=[], byte_fallback=True, continuing_subword_prefix="##")


def split(pattern: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return part("Split", pattern={"Regex": pattern}, behavior=behavior, invert=invert)


def scripts(count: int, seed: int) -> list[str]:
    """Random characters of scripts that live together, with ASCII and marks between them."""
    random_ = random.Random(seed)
    ranges = [(0, 0x80), (0, 0x600), (0x2000, 0x206F), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3)]
    ranges += [(0x1F300, 0x1F5FF), (0x31350, 0x323AF), (0x0, 0xD7FF), (0xE000, 0x10FFFF)]
    found = []
    for _ in range(count):
        first, last = random_.choice(ranges)
        codes = [random_.randrange(first, last) for _ in range(random_.randrange(40))]
        found.append("".join(random_.choice([chr(code), random_.choice("ab 1.\n'é\u0301")]) for code in codes))
    return found


BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
PATTERNS = [
    r"\p{N}{1,3}+",
    r"\s+$|^\s|a*",
    "",
    r"(?=[A-Z])",
    r"(?m:.)+?x",
    r"\p{L}{2}?",
    r"[ab[cd]&&[^c]]+",
    r"(?<=\s)\S",
    r"\d{,2}x?",
    r"\w\b",
    r"(?i:'[st]|ll)|\h\H",
    r"[^\W\d]+|[\S&&[^\p{L}]]",
]


class Rules:
    """Rules put together at random, of most kinds that the native tokenizer has.

    Left out is what makes the Python package panic: what comes after Replace, and added tokens that are looked for in
    normalized texts or take spaces away, where rules change them.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def flag(self) -> bool:
        return self.random.random() < 0.5

    def pattern(self) -> dict[str, Any]:
        literal = self.random.choice([" ", "a", "ab", "▁", "\n", "é", "th"])
        return {"String": literal} if self.flag() else {"Regex": self.random.choice(PATTERNS)}

    def normalizer(self) -> dict[str, Any]:
        return self.random.choice(
            [
                *map(part, ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "ByteLevel")),
                part("Prepend", prepend=self.random.choice(["▁", " x"])),
                part("Replace", pattern=self.pattern(), content=self.random.choice(["▁", "  "])),
                part("Strip", strip_left=self.flag(), strip_right=self.flag()),
            ]
        )

    def pre_tokenizer(self) -> dict[str, Any]:
        behavior, scheme = self.random.choice(BEHAVIORS), self.random.choice(["always", "first", "never"])
        return self.random.choice(
            [
                *map(part, ("Whitespace", "WhitespaceSplit")),
                part("ByteLevel", add_prefix_space=self.flag(), trim_offsets=True, use_regex=self.flag()),
                part("Metaspace", replacement="▁", prepend_scheme=scheme, split=self.flag()),
                part("Split", pattern=self.pattern(), behavior=behavior, invert=self.flag()),
                part("Digits", individual_digits=self.flag()),
                part("CharDelimiterSplit", delimiter=self.random.choice("ae \n")),
                part("FixedLength", length=self.random.randrange(1, 9)),
            ]
        )

    def decoder(self) -> dict[str, Any]:
        return self.random.choice(
            [
                *map(part, ("ByteFallback", "Fuse")),
                part("ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True),
                part("Strip", content=self.random.choice(" ▁a"), start=self.random.randrange(3), stop=0),
                part("Replace", pattern=self.pattern(), content=self.random.choice([" ", "", "x"])),
                part("Metaspace", replacement="▁", prepend_scheme="first" if self.flag() else "never", split=True),
                part("WordPiece", prefix="##", cleanup=self.flag()),
            ]
        )

    def several(self, one: Any, name: str) -> dict[str, Any] | None:
        found = sorted((one() for _ in range(self.random.randrange(4))), key=lambda made: made["type"] == "Replace")
        return part("Sequence", **{name: found}) if found else None

    def added(self, count: int) -> list[dict[str, Any]]:
        contents = ["<x>", "<xy>", "x", "the", " a", "\n\n", "é", "a b"]
        return [
            {"id": count + i, "content": content, "lstrip": False, "rstrip": False, "normalized": False}
            | {name: self.flag() for name in ("single_word", "special")}
            for i, content in enumerate(self.random.sample(contents, self.random.randrange(5)))
        ]

    def make(self, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
        model = self.random.choice(models)
        frame = part("BertProcessing", sep=["x", 2], cls=["y", 1]) if self.flag() else None
        return rules(
            model,
            added_tokens=self.added(len(model["vocab"])),
            normalizer=self.several(self.normalizer, "normalizers"),
            pre_tokenizer=self.several(self.pre_tokenizer, "pretokenizers"),
            post_processor=frame,
            decoder=self.several(self.decoder, "decoders"),
        )


MORE = [
    "",
    "x",
    " the <x>  <xy>the<x>",
    "  a b  \n\n\n\nx",
    "thethe the.the xx",
    "don't I'LL 12345 1234567",
    "a\r\nb\r\n  c",
]
"""What added tokens, contractions and numbers are found in."""


def hard_texts(count: int, seed: int) -> list[str]:
    return [*texts(count, seed), *scripts(count // 2, seed), *MORE]


def byte_level_model(**options: Any) -> dict[str, Any]:
    """tinydoc's."""
    return dict(tinydoc()["model"], **options)
