"""Added and special tokens: what tokenizer_config.json, special_tokens_map.json and added_tokens.json say beside a vocabulary.

As transformers 5 reads them: `added_tokens_decoder` replaces what the tokenizer has under the same text; without it the two other
files count; every token with a name (`bos_token`, ...) is special. Other than there, a token has the id that its file says.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .rules import Rules, added_token, broken

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")
_MAX_IDS = 1 << 21  # far more than any vocabulary has, few enough to fill the gaps between them


@dataclasses.dataclass(frozen=True)
class Token:
    """A token that a file adds. `number` None: the next free id."""

    content: str
    number: int | None
    special: bool
    flags: Mapping[str, bool]


def add_tokens(rules: Rules, files: Mapping[str, bytes]) -> bool:
    """Put the tokens that `files` add into `rules`; whether anything changed. ModelError where ids contradict each other."""
    before = sorted(map(json.dumps, rules.added)), len(rules.model["vocab"])
    ids = rules.vocabulary
    texts = {number: text for text, number in ids.items()}
    added = {part["content"]: dict(part) for part in rules.added}
    for token in _tokens(files):
        number = ids.get(token.content, token.number)
        if number is None:
            number = max(texts, default=-1) + 1
        if token.number not in (None, number):
            stated = f"{token.number} in tokenizer_config.json"
            raise broken(f"token {token.content!r} has id {number} in the vocabulary, {stated}")
        if texts.setdefault(number, token.content) != token.content:
            raise broken(
                f"id {number} is {texts[number]!r} in the vocabulary, {token.content!r} in tokenizer_config.json"
            )
        ids[token.content] = number
        if token.content in added and token.number is None:
            added[token.content]["special"] = True
        else:
            added[token.content] = added_token(number, token.content, special=token.special, **token.flags)
    rules.added = sorted(added.values(), key=lambda part: part["id"])
    _settle(rules)
    return (sorted(map(json.dumps, rules.added)), len(rules.model["vocab"])) != before


def named_tokens(files: Mapping[str, bytes]) -> dict[str, str]:
    """The texts of the tokens that have a name, of tokenizer_config.json and, where it is silent, special_tokens_map.json."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for name in NAMES:
            text = _content(json_object(files, file).get(name))
            found |= {name: text} if text else {}
    return found


def _tokens(files: Mapping[str, bytes]) -> Iterator[Token]:
    config = json_object(files, "tokenizer_config.json")
    names = set(named_tokens(files).values())
    listed = config.get("added_tokens_decoder")
    described: dict[str, Mapping[str, Any]] = {}
    if isinstance(listed, Mapping):
        for number, part in sorted(listed.items(), key=lambda item: int(item[0])):
            if not isinstance(part, Mapping) or not isinstance(part.get("content"), str):
                raise broken(f"added_tokens_decoder has {part!r} under {number}", "it must be an object with a content")
            described[part["content"]] = part
            special = bool(part.get("special")) or part["content"] in names
            yield Token(part["content"], int(number), special, _flags(part, not special))
    extra = _extra(config)
    if not isinstance(listed, Mapping):
        described = dict(_described(files, "special_tokens_map.json")) | dict(
            _described(files, "tokenizer_config.json")
        )
        extra += [text for text in _extra(json_object(files, "special_tokens_map.json")) if text not in extra]
        for text, number in sorted(json_object(files, "added_tokens.json").items(), key=lambda item: item[1]):
            special = text in names or text in extra
            yield Token(text, int(number), special, {"normalized": not special})
    for text in dict.fromkeys([*named_tokens(files).values(), *extra]):
        yield Token(text, None, True, _flags(described.get(text, {}), False))


def _settle(rules: Rules) -> None:
    """See to it that added tokens get their ids: the backend numbers those that are not in the model's vocabulary by itself."""
    vocab = rules.model["vocab"]
    listed = isinstance(vocab, list)
    own = {piece: i for i, (piece, _) in enumerate(vocab)} if listed else vocab
    ids = {i: text for text, i in own.items()}
    for part in rules.added:
        if not 0 <= part["id"] < _MAX_IDS:
            raise broken(f"the added token {part['content']!r} has id {part['id']}", f"ids go from 0 to {_MAX_IDS - 1}")
        there = own.get(part["content"], part["id"]), ids.setdefault(part["id"], part["content"])
        if there != (part["id"], part["content"]):
            why = (
                f"the vocabulary has {there[1]!r} there"
                if there[0] == part["id"]
                else f"the vocabulary says {there[0]}"
            )
            raise broken(f"the added token {part['content']!r} has id {part['id']}", why)
    top = len(vocab)
    for part in rules.added:
        if part["content"] not in own and part["id"] != top:
            break
        top = max(top, part["id"] + 1)
    else:
        return
    new = {part["id"]: part["content"] for part in rules.added if part["content"] not in own}
    if not listed:
        vocab |= {text: number for number, text in new.items()}
        return
    lowest = min(score for _, score in vocab)
    vocab += [[new.get(i, f"<|unused:{i}|>"), lowest] for i in range(len(vocab), max(new) + 1)]


def _extra(values: Mapping[str, Any]) -> list[str]:
    listed = values.get("extra_special_tokens") or values.get("additional_special_tokens") or []
    parts = listed.values() if isinstance(listed, Mapping) else listed
    return [text for text in map(_content, parts) if text]


def _described(files: Mapping[str, bytes], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Tokens that a file has as objects, by their texts."""
    for value in json_object(files, name).values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping) and isinstance(part.get("content"), str):
                yield part["content"], part


def _flags(part: Mapping[str, Any], normalized: bool) -> dict[str, bool]:
    return {"normalized": normalized} | {name: bool(part[name]) for name in _FLAGS if name in part}


def _content(value: Any) -> str | None:
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else None


def json_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """A JSON object of the files, empty where there is no such file. ModelError."""
    try:
        value = json.loads(files.get(name, b"{}"))
    except ValueError as exception:
        raise broken(f"{name} is not JSON", str(exception)) from exception
    if not isinstance(value, dict):
        raise broken(f"{name} must hold a JSON object")
    return value
