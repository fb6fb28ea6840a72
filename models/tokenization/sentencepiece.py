"""SentencePiece models: what a `.model` file says, of the vocabulary and of what happens to a text before it.

The file is the protobuf message ModelProto of sentencepiece_model.proto (https://github.com/google/sentencepiece).
"""

from __future__ import annotations

import dataclasses
import enum
import math
import struct
from typing import Literal

from .protobuf import fields, integer, part
from .rules import broken


class Kind(enum.IntEnum):
    """What a piece is; GGUF's token types have the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclasses.dataclass(frozen=True)
class Piece:
    """A token: its text (with U+2581 for a space), its log probability or rank, and what it is."""

    text: str
    score: float
    kind: Kind = Kind.NORMAL


@dataclasses.dataclass
class Pieces:
    """A SentencePiece model. Ids are places in `pieces`. `charsmap` is the compiled map of characters, empty for none."""

    pieces: list[Piece]
    algorithm: Literal["unigram", "bpe"]
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    byte_fallback: bool = False
    charsmap: bytes = b""
    bos: str = "<s>"
    eos: str = "</s>"
    pad: str = "<pad>"

    @property
    def unknown(self) -> int | None:
        """Id of the piece that stands for what no other does."""
        return next((i for i, piece in enumerate(self.pieces) if piece.kind == Kind.UNKNOWN), None)


_ALGORITHMS: dict[int, Literal["unigram", "bpe"]] = {1: "unigram", 2: "bpe"}
_NAMED = {46: "bos", 47: "eos", 48: "pad"}


def read_sentencepiece(data: bytes) -> Pieces:
    """The model in a `.model` file. ModelError where it is none, or of a kind that has no like in tokenizer.json."""
    found = Pieces([], "unigram")
    algorithm = 1
    refused = []
    try:
        for number, value in fields(memoryview(data)):
            if number == 1:
                found.pieces.append(_piece(part(value)))
            elif number == 2:  # TrainerSpec
                for n, v in fields(part(value)):
                    if n == 3:
                        algorithm = integer(v)
                    elif n == 24 and v:
                        refused.append("it marks the end of words rather than their start (treat_whitespace_as_suffix)")
                    elif n == 35:
                        found.byte_fallback = bool(v)
                    elif n in _NAMED:
                        setattr(found, _NAMED[n], str(part(v), "utf-8"))
            elif number == 3:  # NormalizerSpec
                for n, v in fields(part(value)):
                    if n == 2:
                        found.charsmap = bytes(part(v))
                    elif n == 3:
                        found.add_dummy_prefix = bool(v)
                    elif n == 4:
                        found.remove_extra_whitespaces = bool(v)
                    elif n == 5 and not v:
                        refused.append("it keeps spaces as they are (escape_whitespaces is off)")
    except (ValueError, struct.error) as exception:
        raise broken("this is no SentencePiece model", str(exception)) from exception
    if algorithm not in _ALGORITHMS:
        refused.append(
            f"its algorithm is {({3: 'word', 4: 'char'}).get(algorithm, algorithm)}; unigram and bpe can be read"
        )
    if refused:
        raise broken("the SentencePiece model cannot be used", "; ".join(refused), "use a model with a tokenizer.json")
    if not found.pieces:
        raise broken("the SentencePiece model is empty")
    found.algorithm = _ALGORITHMS[algorithm]
    return found


def _piece(message: memoryview) -> Piece:
    text, score, kind = "", 0.0, Kind.NORMAL
    for number, value in fields(message):
        if number == 1:
            text = str(part(value), "utf-8")
        elif number == 2:
            (score,) = struct.unpack("<f", part(value))
            if not math.isfinite(score):
                raise ValueError(f"the score of a piece is {score}")
        elif number == 3:
            kind = Kind(integer(value))
    return Piece(text, score, kind)
