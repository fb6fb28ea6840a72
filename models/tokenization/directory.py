"""The tokenizer of a Hugging Face directory, whatever files it is kept in, as a tokenizer.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .added import add_tokens, json_object, named_tokens
from .byte_level import byte_level_rules, check_merges, read_merges, read_vocab_json
from .pieces import sentencepiece_rules
from .rules import Rules, added_token, frame, refusing
from .sentencepiece import Kind, Piece, read_sentencepiece
from .splits import GPT2, QWEN2
from .tiktoken import encoding_of, read_ranks, tiktoken_rules
from .wordpiece import SPECIALS, wordpiece_rules

_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json", "config.json")
_MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model")
TOKENIZER_FILES = (*_MODELS, "vocab.json", "merges.txt", "vocab.txt")
"""Files that a tokenizer.json is made of where there is none, besides `*.tiktoken`."""

_QWEN = ("Qwen2Tokenizer", "Qwen3Tokenizer")
_ROBERTA = ("RobertaTokenizer", "BartTokenizer", "LongformerTokenizer")
_FRAMED = ("<s>", "</s>")


@dataclasses.dataclass
class _Made:
    """A tokenizer and the named tokens that it brings along."""

    rules: Rules
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False


def directory_tokenizer(directory: Path) -> dict[str, bytes]:
    """tokenizer.json, and tokenizer_config.json where it has to say more, of a model directory; only what is new.

    Read are tokenizer.json (with the tokens that the other files add), SentencePiece models, tiktoken files, vocab.json with
    merges.txt, and vocab.txt; nothing comes of a directory with none of these. ModelError says what is wrong with which file.
    """
    files = {name: (directory / name).read_bytes() for name in _CONFIGS if (directory / name).is_file()}
    with refusing("the files of the tokenizer cannot be read"):
        return _completed(files) if "tokenizer.json" in files else _converted(directory, files)


def _converted(directory: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """What other files than tokenizer.json make; nothing where there are none."""
    config = json_object(files, "tokenizer_config.json")
    made = _made(directory, files, config, str(config.get("tokenizer_class") or "").removesuffix("Fast"))
    if made is None:
        return {}
    given = named_tokens(files)
    own = {name: text for name, text in made.names.items() if name not in config and name not in given}
    names = given | own
    add_tokens(made.rules, files | {"tokenizer_config.json": json.dumps(config | own).encode()})
    ids = made.rules.vocabulary
    if made.rules.post_processor is None:
        before = [names["bos_token"]] if config.get("add_bos_token", made.add_bos) and "bos_token" in names else []
        after = [names["eos_token"]] if config.get("add_eos_token", made.add_eos) and "eos_token" in names else []
        made.rules.post_processor = frame(*([(t, ids[t]) for t in side if t in ids] for side in (before, after)))
    new = {name: token for name, token in names.items() if name not in config and token in ids}
    rewritten = {"tokenizer_config.json": json.dumps(config | new, ensure_ascii=False).encode()} if new else {}
    return {"tokenizer.json": made.rules.to_json(), **rewritten}


def _completed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """tokenizer.json with the tokens that only the files beside it have; nothing where there are none."""
    try:
        described = json.loads(files["tokenizer.json"])
        complete = bool(described["model"]["vocab"]) and isinstance(described.get("added_tokens", []), list)
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        return {}  # broken: whoever reads it says what is wrong
    known = {field.name: described.get(field.name) for field in dataclasses.fields(Rules)}
    rules = Rules(**(known | {"added": list(described.get("added_tokens") or [])}))
    if not add_tokens(rules, files):
        return {}
    return {"tokenizer.json": rules.to_json()}


def _made(directory: Path, files: Mapping[str, bytes], config: dict[str, Any], kind: str) -> _Made | None:
    """The tokenizer without what the configuration adds."""
    model = next((directory / name for name in _MODELS if (directory / name).is_file()), None)
    ranks = next(iter(sorted(directory.glob("*.tiktoken"))), None)
    if ranks is None and model is not None and _is_tiktoken(model):
        ranks = model
    if ranks is not None:
        return _tiktoken(ranks, str(json_object(files, "config.json").get("model_type") or ""))
    if model is not None:
        return _sentencepiece(model.read_bytes(), config, kind)
    vocab, merges = directory / "vocab.json", directory / "merges.txt"
    if vocab.is_file() and merges.is_file():
        return _byte_level(vocab.read_text("utf-8"), merges.read_text("utf-8"), config, kind)
    words = directory / "vocab.txt"
    if words.is_file():
        return _wordpiece(words.read_text("utf-8"), config)
    return None


def _is_tiktoken(path: Path) -> bool:
    """Whether a tokenizer.model is text, as Llama 3's is: base64, a space, a number."""
    with path.open("rb") as file:
        token, _, rank = file.readline(200).strip().partition(b" ")
    return bool(token) and rank.isdigit()


def _tiktoken(path: Path, model_type: str) -> _Made:
    ranks = read_ranks(path.read_bytes())
    encoding = encoding_of(path.name, ranks, model_type)
    rules = tiktoken_rules(ranks, encoding)
    known = rules.vocabulary
    names = (("bos_token", encoding.bos), ("eos_token", encoding.eos))
    return _Made(rules, {name: text for name, text in names if text is not None and text in known})


def _sentencepiece(data: bytes, config: Mapping[str, Any], kind: str) -> _Made:
    """Llama's and Gemma's put BOS before a text, T5's EOS behind it; XLM-R has other ids than its file."""
    model = read_sentencepiece(data)
    if kind == "XLMRobertaTokenizer":
        model.pieces = _xlm_roberta(model.pieces)
    rules = sentencepiece_rules(model, first_only=config.get("legacy") is False)
    ids = rules.vocabulary
    names = {"bos_token": model.bos, "eos_token": model.eos, "pad_token": model.pad}
    if model.unknown is not None:
        names["unk_token"] = model.pieces[model.unknown].text
    if kind == "XLMRobertaTokenizer":
        rules.post_processor = frame(*([(token, ids[token])] for token in _FRAMED))
        names |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    names = {name: text for name, text in names.items() if text in ids}
    return _Made(rules, names, add_bos=model.algorithm == "bpe", add_eos=kind == "T5Tokenizer")


def _xlm_roberta(pieces: Sequence[Piece]) -> list[Piece]:
    """The vocabulary of fairseq: four special tokens, the pieces of the file behind its own three, and a mask."""
    first = [("<s>", Kind.CONTROL), ("<pad>", Kind.CONTROL), ("</s>", Kind.CONTROL), ("<unk>", Kind.UNKNOWN)]
    return [*(Piece(text, 0.0, kind) for text, kind in first), *pieces[3:], Piece("<mask>", 0.0, Kind.CONTROL)]


def _byte_level(vocab_text: str, merges_text: str, config: Mapping[str, Any], kind: str) -> _Made:
    """GPT-2's, or Qwen's, or RoBERTa's with its frame."""
    vocab, merges = read_vocab_json(vocab_text), read_merges(merges_text.split("\n"))
    check_merges(vocab, merges)
    qwen = kind in _QWEN
    normalizer = {"type": "NFC"} if qwen else None
    space = bool(config.get("add_prefix_space", False))
    rules = byte_level_rules(vocab, merges, [QWEN2 if qwen else GPT2], normalizer=normalizer, add_prefix_space=space)
    names = {"eos_token": "<|endoftext|>"} | ({} if qwen else {"bos_token": "<|endoftext|>"})
    if kind in _ROBERTA:
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        names |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
        if "<mask>" in vocab:
            rules.added.append(added_token(vocab["<mask>"], "<mask>", special=True, lstrip=True))
        rules.post_processor = frame(*([(token, vocab[token])] for token in _FRAMED if token in vocab))
    return _Made(rules, {name: text for name, text in names.items() if text in vocab})


def _wordpiece(text: str, config: Mapping[str, Any]) -> _Made:
    """BERT's."""
    lines = text.split("\n")
    vocab = {word.rstrip("\r"): i for i, word in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    specials = {name: str(config.get(name) or token) for name, token in SPECIALS.items()}
    rules = wordpiece_rules(
        vocab,
        specials,
        lowercase=bool(config.get("do_lower_case", True)),
        strip_accents=config.get("strip_accents"),
        chinese=bool(config.get("tokenize_chinese_chars", True)),
    )
    return _Made(rules, {name: token for name, token in specials.items() if token in vocab})
