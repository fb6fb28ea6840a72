"""The tokenizer in a GGUF file's metadata (`tokenizer.*`), as the files of a Hugging Face directory.

The keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What they mean where they leave it open is as in llama.cpp's
`src/llama-vocab.cpp`, except that texts are cut and normalized as the model's own tokenizer.json does it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..problems import ModelError, error
from .byte_level import byte_level_rules, check_merges
from .pieces import SPACE, sentencepiece_rules
from .rules import Rules, added_token, broken, frame, refusing
from .sentencepiece import Kind, Piece, Pieces
from .splits import GGUF_SPLITS, GGUF_WHOLE_WORDS
from .wordpiece import wordpiece_rules

Metadata = Mapping[str, Any]

_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # the key is spelled like this
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_TURN_ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|eom_id|>",
    "<end_of_utterance>",
    "<|endoftext|>",
)


def gguf_tokenizer(metadata: Metadata) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and generation_config.json of a GGUF file; nothing where it has no tokenizer.

    `metadata` holds the file's keys: strings, numbers, and arrays as sequences or NumPy arrays. ModelError with everything
    that is wrong or cannot be read.
    """
    if metadata.get("tokenizer.ggml.model") in (None, "none", "no_vocab"):
        return {}
    with refusing("the tokenizer.* keys of the file cannot be read"):
        return _files(metadata, str(metadata["tokenizer.ggml.model"]))


def _files(metadata: Metadata, kind: str) -> dict[str, bytes]:
    if kind not in _KINDS:
        known = ", ".join(_KINDS)
        fix = "copy the tokenizer.json of the model's origin beside the file"
        raise broken(f"tokenizer.ggml.model is {kind!r}", f"known are {known}", fix)
    tokens = _tokens(metadata)
    specials = _specials(metadata, kind, tokens)
    if "tokenizer.huggingface.json" in metadata:
        rules = str(metadata["tokenizer.huggingface.json"]).encode()
    else:
        built = _KINDS[kind](metadata, tokens)
        built.post_processor = _frame(metadata, kind, specials) or built.post_processor
        rules = built.to_json()
    config: dict[str, Any] = {name: token for name, (token, _) in specials.items()}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    template = _template(metadata)
    if template is not None:
        config["chat_template"] = template
    ends = _ends(metadata, tokens, specials)
    generation: dict[str, Any] = {"eos_token_id": ends} if ends else {}
    if "bos_token" in specials:
        generation["bos_token_id"] = specials["bos_token"][1]
    files = {"tokenizer.json": rules, "tokenizer_config.json": json.dumps(config, ensure_ascii=False).encode()}
    return files | {"generation_config.json": json.dumps(generation).encode()}


def _tokens(metadata: Metadata) -> list[Piece]:
    """The vocabulary; ModelError where the arrays of it are of different lengths, or a token is there twice."""
    texts = [str(text) for text in metadata.get("tokenizer.ggml.tokens", ())]
    problems = []
    columns: dict[str, Sequence[Any]] = {}
    for name, default in (("scores", 0.0), ("token_type", int(Kind.NORMAL))):
        columns[name] = _listed(metadata.get(f"tokenizer.ggml.{name}", [default] * len(texts)))
        if len(columns[name]) < len(texts):
            what = f"tokenizer.ggml.{name} has {len(columns[name])} entries for {len(texts)} tokens"
            problems.append(error(what, "", "the file is damaged: download it again"))
    if not texts:
        problems.append(error("tokenizer.ggml.tokens is missing or empty", "", "convert the model again"))
    texts = [text or f"[EMPTY_{i}]" for i, text in enumerate(texts)]
    if len(set(texts)) != len(texts):
        seen: set[str] = set()
        twice = [text for text in texts if text in seen or seen.add(text)]  # type: ignore[func-returns-value]
        problems.append(error(f"tokens are there twice: {', '.join(map(repr, twice[:10]))}", "ids must have one text"))
    if problems:
        raise ModelError("the tokenizer", problems)
    known = {int(kind) for kind in Kind}
    kinds = [Kind(k) if k in known else Kind.NORMAL for k in columns["token_type"]]
    return [Piece(text, float(s), k) for text, s, k in zip(texts, columns["scores"], kinds, strict=False)]


def _listed(values: Any) -> Sequence[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _specials(metadata: Metadata, kind: str, tokens: Sequence[Piece]) -> dict[str, tuple[str, int]]:
    """Text and id of the tokens that have a name; llama.cpp's defaults where the file is silent."""
    defaults = {
        "llama": {"bos_token": 1, "eos_token": 2, "unk_token": 0},
        "bert": {"cls_token": 101, "sep_token": 102, "unk_token": 100, "pad_token": 0, "mask_token": 103},
        "t5": {"eos_token": 1, "unk_token": 2, "pad_token": 0},
    }.get(kind, {})
    found = {}
    for name, key in _NAMED.items():
        number = metadata.get(f"tokenizer.ggml.{key}", defaults.get(name))
        if number is not None and 0 <= int(number) < len(tokens):
            found[name] = (tokens[int(number)].text, int(number))
    if kind == "bert" and "cls_token" not in found and "bos_token" in found:
        found["cls_token"] = found["bos_token"]
    return found


def _frame(metadata: Metadata, kind: str, specials: Mapping[str, tuple[str, int]]) -> Any:
    """What stands around a text."""
    pre = metadata.get("tokenizer.ggml.pre", "")
    first = kind in ("llama", "bert") or pre in GGUF_WHOLE_WORDS
    wanted = {
        "bos": metadata.get("tokenizer.ggml.add_bos_token", first),
        "eos": metadata.get("tokenizer.ggml.add_eos_token", kind == "t5"),
        "sep": metadata.get("tokenizer.ggml.add_sep_token", kind == "bert" or pre == "roberta-bpe"),
    }
    start = specials.get("cls_token") if kind == "bert" else specials.get("bos_token")
    ends = {"bos": start, "eos": specials.get("eos_token"), "sep": specials.get("sep_token")}
    there = {name: token for name, token in ends.items() if token is not None and wanted[name]}
    after = dict.fromkeys(there[name] for name in ("eos", "sep") if name in there)
    return frame([there["bos"]] if "bos" in there else [], after)


def _llama(metadata: Metadata, tokens: Sequence[Piece]) -> Rules:
    """SentencePiece BPE. Symbols of the user have spaces where the model's file had U+2581."""
    pieces = [Piece(p.text.replace(" ", SPACE), p.score, p.kind) if p.kind == Kind.USER_DEFINED else p for p in tokens]
    has_bytes = any(piece.kind == Kind.BYTE for piece in pieces)
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    return sentencepiece_rules(Pieces(pieces, "bpe", prefix, False, has_bytes))


def _t5(metadata: Metadata, tokens: Sequence[Piece]) -> Rules:
    """SentencePiece unigram."""
    charsmap = metadata.get("tokenizer.ggml.precompiled_charsmap", b"")
    data = charsmap if isinstance(charsmap, bytes) else np.asarray(charsmap).astype(np.int64).astype(np.uint8).tobytes()
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    trim = bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False))
    return sentencepiece_rules(Pieces(list(tokens), "unigram", prefix, trim, charsmap=data))


def _gpt2(metadata: Metadata, tokens: Sequence[Piece]) -> Rules:
    """Byte-level BPE, cut as `tokenizer.ggml.pre` says. Added tokens are spelled as text, others as bytes."""
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    if pre not in GGUF_SPLITS:
        fix = "copy the tokenizer.json of the model's origin beside the file"
        raise broken(f"tokenizer.ggml.pre is {pre!r}", f"known are {', '.join(sorted(GGUF_SPLITS))}", fix)
    merges = [_pair(str(line)) for line in metadata.get("tokenizer.ggml.merges", ())]
    vocab = {piece.text: i for i, piece in enumerate(tokens)}
    check_merges(vocab, merges)
    nfc = {"type": "NFC"} if pre in ("qwen2", "qwen35") else None
    rules = byte_level_rules(vocab, merges, GGUF_SPLITS[pre], normalizer=nfc, whole_words=pre in GGUF_WHOLE_WORDS)
    for i, piece in enumerate(tokens):
        if piece.kind in (Kind.CONTROL, Kind.USER_DEFINED):
            rules.added.append(added_token(i, piece.text, special=piece.kind == Kind.CONTROL))
    return rules


def _pair(line: str) -> list[str]:
    """A merge: two tokens, the first of at least a character, with a space between."""
    at = line.find(" ", 1)
    return [line[:at], line[at + 1 :]] if at > 0 else [line, ""]


def _bert(metadata: Metadata, tokens: Sequence[Piece]) -> Rules:
    """WordPiece. The file marks the start of words (U+2581), BERT what is within them (##)."""

    def own(text: str) -> str:
        if text.startswith("[") and text.endswith("]"):
            return text
        return text[1:] if text.startswith(SPACE) else f"##{text}"

    lowercase = bool(metadata.get("tokenizer.ggml.normalizer.lowercase", True))
    accents = bool(metadata.get("tokenizer.ggml.normalizer.strip_accents", lowercase))
    specials = {name: token for name, (token, _) in _specials(metadata, "bert", tokens).items()}
    missing = [name for name in ("cls_token", "sep_token") if name not in specials]
    if missing:
        raise broken(
            f"there is no {' and no '.join(missing)}", "BERT puts them around a text", "convert the model again"
        )
    vocab = {own(piece.text): i for i, piece in enumerate(tokens)}
    return wordpiece_rules(vocab, specials, lowercase=lowercase, strip_accents=accents)


_KINDS: dict[str, Callable[[Metadata, Sequence[Piece]], Rules]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "bert": _bert,
    "t5": _t5,
}


def _template(metadata: Metadata) -> str | list[dict[str, str]] | None:
    """The chat template; a list where there are several by name."""
    template = metadata.get("tokenizer.chat_template")
    names = [str(name) for name in metadata.get("tokenizer.chat_templates", ())]
    others = {name: metadata.get(f"tokenizer.chat_template.{name}") for name in names}
    named = [{"name": name, "template": str(text)} for name, text in others.items() if text is not None]
    if not named:
        return None if template is None else str(template)
    return [{"name": "default", "template": str(template)}, *named] if template is not None else named


def _ends(metadata: Metadata, tokens: Sequence[Piece], specials: Mapping[str, tuple[str, int]]) -> list[int]:
    """Tokens that end an answer: those the file names, and the end of a turn, which many files do not name."""
    given = [metadata.get(f"tokenizer.ggml.{key}") for key in _ENDS]
    found = [specials["eos_token"][1]] if "eos_token" in specials else []
    found += [int(number) for number in given if number is not None and 0 <= int(number) < len(tokens)]
    by_text = {piece.text: i for i, piece in enumerate(tokens) if piece.kind == Kind.CONTROL}
    found += [by_text[text] for text in _TURN_ENDS if text in by_text]
    return list(dict.fromkeys(found))
