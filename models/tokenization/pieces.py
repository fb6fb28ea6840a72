"""SentencePiece models as tokenizer.json: the same pieces for every text that has no control symbols in it.

What SentencePiece does, and what does it here:

- characters are mapped, spaces trimmed, a space put in front, spaces written as U+2581: normalizers;
- user-defined symbols are whole wherever they stand: with unigram by a score that always wins (SentencePiece's own), with BPE
  by a split around them, and because what stands alone and is a token is that token;
- BPE joins the neighbours whose concatenation has the best score: merges, one for every way to cut a piece in two;
- control symbols have no text in SentencePiece; transformers finds them in it, and so they are special added tokens.
"""

from __future__ import annotations

import base64
import collections
import re
from typing import Any

from .rules import Part, Rules, added_token, all_merges, broken, replace, sequence, split
from .sentencepiece import Kind, Pieces

SPACE = "\u2581"


def sentencepiece_rules(model: Pieces, *, first_only: bool = False) -> Rules:
    """The tokenizer without its frame. ModelError where pieces contradict each other.

    `first_only`: the space in front is put before a text only, not after the special tokens in it too, and not where there is
    one (`legacy: false` in tokenizer_config.json).
    """
    counts = collections.Counter(piece.text for piece in model.pieces)
    if twice := sorted(text for text, count in counts.items() if count > 1):
        raise broken(f"tokens are there twice: {', '.join(map(repr, twice[:10]))}")
    if model.byte_fallback and any(f"<0x{byte:02X}>" not in counts for byte in range(256)):
        raise broken("tokens of single bytes are missing", "byte_fallback needs <0x00> to <0xFF>")
    build = _bpe if model.algorithm == "bpe" else _unigram
    specials = [
        added_token(i, piece.text, special=True)
        for i, piece in enumerate(model.pieces)
        if piece.kind in (Kind.CONTROL, Kind.UNKNOWN) and piece.text
    ]
    prefix_first = model.add_dummy_prefix and first_only
    pre = (
        [{"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}] if prefix_first else []
    )
    symbols = [piece.text for piece in model.pieces if piece.kind == Kind.USER_DEFINED]
    if symbols and model.algorithm == "bpe":
        pre.append(split(_any_of(symbols)))
    return Rules(
        model=build(model),
        normalizer=sequence("normalizers", _normalizers(model, own_spaces=not prefix_first)),
        pre_tokenizer=sequence("pretokenizers", pre),
        decoder=sequence("decoders", _decoders(model)),
        added=specials,
    )


def _normalizers(model: Pieces, own_spaces: bool) -> list[Part]:
    parts: list[Part] = []
    if model.charsmap:
        text = base64.b64encode(model.charsmap).decode()
        parts.append({"type": "Precompiled", "precompiled_charsmap": text})
    if model.remove_extra_whitespaces:
        parts += [replace(rf"\A +|[ {SPACE}]+\z", "", regex=True), replace(" {2,}", " ", regex=True)]
    if not own_spaces:
        return parts
    if model.add_dummy_prefix:
        parts.append({"type": "Prepend", "prepend": SPACE})
    return [*parts, replace(" ", SPACE)]


def _decoders(model: Pieces) -> list[Part]:
    parts = [replace(SPACE, " ")]
    if model.byte_fallback:
        parts.append({"type": "ByteFallback"})
    parts.append({"type": "Fuse"})
    if model.add_dummy_prefix:
        parts.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return parts


def _bpe(model: Pieces) -> Part:
    joined = [piece for piece in model.pieces if piece.kind in (Kind.NORMAL, Kind.USER_DEFINED)]
    ranked = sorted(joined, key=lambda piece: -piece.score)
    unknown = model.unknown
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if unknown is None else model.pieces[unknown].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": any(piece.kind == Kind.USER_DEFINED for piece in model.pieces),
        "vocab": {piece.text: i for i, piece in enumerate(model.pieces)},
        "merges": all_merges(piece.text for piece in ranked),
    }


def _unigram(model: Pieces) -> Part:
    best = max((piece.score for piece in model.pieces if piece.kind == Kind.NORMAL), default=0.0)

    def score(text: str, kind: Kind, own: float) -> float:
        return len(text) * best - 0.1 if kind == Kind.USER_DEFINED else own

    vocab: list[list[Any]] = [[p.text, score(p.text, p.kind, p.score)] for p in model.pieces]
    return {"type": "Unigram", "unk_id": model.unknown, "vocab": vocab, "byte_fallback": model.byte_fallback}


def _any_of(symbols: list[str]) -> str:
    """A pattern of these texts, the longest first. What a symbol can begin with is looked at first, which is quick."""
    begin = "".join(sorted({re.escape(symbol[0]) for symbol in symbols}))
    return f"(?=[{begin}])(?:{'|'.join(re.escape(s) for s in sorted(symbols, key=len, reverse=True))})"
