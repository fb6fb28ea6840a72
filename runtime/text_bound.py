"""How much text a token can stand for: what can never fit into a context need not be tokenized to be refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

GROWING = ("Prepend", "Replace", "NFC")
"""Normalizers that are looked at; others may make a text shorter by any factor."""
CUTTING = ("ByteLevel", "Metaspace", "Digits", "Split")


def bytes_per_token(rules: Mapping[str, Any]) -> int | None:
    """The most bytes of UTF-8 that one token of tokenizer.json's `rules` stands for; None where nothing bounds them.

    Sound for byte pair encodings that know every byte, so that no text is dropped and none is one unknown token. The
    spelling of a token in the vocabulary is at least as long as its text, in bytes.
    """
    model = rules.get("model", {})
    spellings = model.get("vocab", {})
    steps = _parts(rules.get("pre_tokenizer"), "pretokenizers")
    every_byte = model.get("byte_fallback") or any(step.get("type") == "ByteLevel" for step in steps)
    if model.get("type") != "BPE" or not every_byte or not isinstance(spellings, Mapping):
        return None
    if any(step.get("type") not in CUTTING or step.get("behavior") == "Removed" for step in steps):
        return None
    for step in _parts(rules.get("normalizer"), "normalizers"):
        pattern = step.get("pattern", {}).get("String")
        if step.get("type") not in GROWING:
            return None
        if step["type"] == "Replace" and (pattern is None or len(step["content"].encode()) < len(pattern.encode())):
            return None
    added = rules.get("added_tokens", ())
    if any(token.get("lstrip") or token.get("rstrip") for token in added):  # they take any number of spaces with them
        return None
    return max((len(text.encode()) for text in (*spellings, *(token["content"] for token in added))), default=None)


def keeps_length(text: str) -> bool:
    """Whether the normalizers that `bytes_per_token` allows leave at least as many bytes of this text."""
    return unicodedata.is_normalized("NFC", text)


def _parts(rule: Any, several: str) -> list[Mapping[str, Any]]:
    """The steps of a rule that may be none, one, or a sequence."""
    if not isinstance(rule, Mapping):
        return []
    if rule.get("type") == "Sequence":
        return [part for inner in rule.get(several, ()) for part in _parts(inner, several)]
    return [rule]
