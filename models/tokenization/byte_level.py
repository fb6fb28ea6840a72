"""Byte-level BPE: GPT-2's vocabularies, where a token is spelled in 256 letters that stand for bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from .rules import Part, Rules, broken, sequence, split
from .splits import GPT2


def _alphabet() -> dict[int, str]:
    """The letter of each byte: itself where it can be seen, else one from U+0100 on (GPT-2's `bytes_to_unicode`)."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}


ALPHABET = _alphabet()
_TABLE = str.maketrans({chr(byte): letter for byte, letter in ALPHABET.items()})


def spell(token: bytes) -> str:
    """A token as byte-level vocabularies write it."""
    return token.decode("latin-1").translate(_TABLE)


def byte_level_rules(
    vocab: Mapping[str, int],
    merges: Iterable[Sequence[str]],
    splits: Sequence[str],
    *,
    normalizer: Part | None = None,
    whole_words: bool = False,
    add_prefix_space: bool = False,
) -> Rules:
    """A tokenizer of vocabulary and merges. `splits` are patterns applied one after the other.

    `whole_words`: pieces that are tokens are not merged. `add_prefix_space`: a space before a text that begins with none
    (with patterns other than GPT-2's: before each piece, as tokenizer.json has it).
    """
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": whole_words,
        "vocab": dict(vocab),
        "merges": [list(pair) for pair in merges],
    }
    plain = tuple(splits) == (GPT2,)  # the pattern that is built in, which sees the text before the space is put
    byte_level = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": plain}
    parts: list[Part] = [] if plain else [split(pattern) for pattern in splits]
    return Rules(model, normalizer, sequence("pretokenizers", [*parts, byte_level]), None, dict(byte_level))


def read_vocab_json(text: str) -> dict[str, int]:
    """Ids by token of a vocab.json; ModelError where it is none."""
    try:
        vocab = json.loads(text)
    except ValueError as exception:
        raise broken("vocab.json is not JSON", str(exception)) from exception
    if not isinstance(vocab, dict) or not all(type(i) is int and i >= 0 for i in vocab.values()):
        raise broken("vocab.json must hold ids by token")
    return vocab


def read_merges(lines: Iterable[str]) -> list[list[str]]:
    """Pairs of a merges.txt, best first; the line `#version: ...` is none. ModelError names the first line that is no pair."""
    merges = []
    for number, line in enumerate(lines, 1):
        if (number == 1 and line.startswith("#version")) or not line.strip():
            continue
        pair = line.rstrip("\r\n").split(" ")
        if len(pair) != 2 or not all(pair):
            raise broken(
                f"line {number} of the merges is {line.strip()!r}", "a merge is two tokens with a space between"
            )
        merges.append(pair)
    return merges


def check_merges(vocab: Mapping[str, int], merges: Iterable[Sequence[str]]) -> None:
    """ModelError where merges name tokens that the vocabulary lacks."""
    lost = [t for a, b in merges for t in (a, b, a + b) if t not in vocab]
    if lost:
        listed = ", ".join(map(repr, dict.fromkeys(lost[:10])))
        raise broken(f"merges name {len(set(lost))} tokens that the vocabulary lacks: {listed}")
