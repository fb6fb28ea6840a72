"""Tokenizers made up for tests, by the tools that make real ones, and texts that are hard to cut."""

from __future__ import annotations

import functools
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece

ROOT = Path(__file__).parent.parent
OTHERS = [
    "Grüße aus Köln, größer ﬁne ½ ™",
    "世界你好, 今天天气很好。",
    "Привет мир, как дела?",
    "emoji 😀 👍🏽 and ｶﾀｶﾅ",
]
SYMBOLS = ["<ud>", "[x]"]

MODELS: dict[str, dict[str, Any]] = {
    "bpe": {"model_type": "bpe"},
    "llama": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
    },
    "gemma": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": [*SYMBOLS, "\n", "\n\n", "▁▁", "▁▁▁", "▁▁▁▁"],
        **{"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "eos_piece": "<eos>", "bos_piece": "<bos>"},
    },
    "symbols": {"model_type": "bpe", "user_defined_symbols": SYMBOLS, "control_symbols": ["<control>"]},
    "unigram": {"model_type": "unigram"},
    "unigram-symbols": {"model_type": "unigram", "user_defined_symbols": SYMBOLS},
    "unigram-bytes": {"model_type": "unigram", "byte_fallback": True, "normalization_rule_name": "identity"},
}
"""Options of SentencePiece's trainer: as Llama's and Gemma's were made, and what T5 and XLM-R are like."""


CODE = """def tile(rows: int, columns: int = 16) -> list[tuple[int, int]]:
    return [(i, j) for i in range(rows) for j in range(0, columns, 4)]
| `w4-g128` | 4.12 | +1.45 % | -0.01 % |   |---|---|---|
  row 1      .  .  .  .      zeros inside of the band, 0   1   2     4   5
curl http://127.0.0.1:8000/v1/chat/completions -d '{"messages": [{"role": "user"}]}'
x_2[i] += a[i, k] * b[k, j];  // don't, I'll, we've; HTTPServer's getValue()
""".splitlines()


@functools.cache
def corpus() -> list[str]:
    """Lines of a text that nobody changes, and some of code and of other scripts. None has a special token in it."""
    lines = (ROOT / "LICENSE").read_text("utf-8").splitlines()
    return [line for line in lines if line.strip()] + CODE * 5 + OTHERS * 5


@functools.cache
def sentencepiece_model(name: str) -> bytes:
    """A model of 600 pieces, trained as `MODELS` says."""
    made = io.BytesIO()
    options = {"vocab_size": 600, "character_coverage": 0.995, "minloglevel": 2, "num_threads": 1} | MODELS[name]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_writer=made, **options)
    return made.getvalue()


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """Random characters, cuttings, and runs of spaces and symbols between words."""
    random_ = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz   ABC0123456789.,'\"-\n\t_#<>/éüß世界好 मनп😀\u00a0\u3000ﬁ½ｶ▁"
    lines = corpus()
    for i in range(count):
        line = random_.choice(lines)
        if i % 3 == 0:
            yield "".join(random_.choices(letters, k=random_.randrange(60)))
        elif i % 3 == 1:
            start = random_.randrange(len(line))
            yield line[start : start + random_.randrange(1, 120)]
        else:
            between = random_.choice([*SYMBOLS, "<ud> ", "    ", "\n\n", "", "  x", "don't I'LL "])
            yield f"{' ' * random_.randrange(3)}{line[:50]}{between}{random_.choice(lines)[:20]}{' ' * random_.randrange(3)}"


@functools.cache
def tinydoc() -> dict[str, Any]:
    """tokenizer.json of the example model: byte-level BPE of 4096 tokens, the first three special."""
    found: dict[str, Any] = json.loads((ROOT / "examples" / "tinydoc" / "tokenizer.json").read_text("utf-8"))
    return found


def words() -> list[str]:
    """A vocab.txt of BERT's kind."""
    found = {w for line in corpus() for w in "".join(c if c.isalnum() else " " for c in line.lower()).split()}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*specials, *sorted(found), *letters, *".,!?'-:;()", *(f"##{c}" for c in letters)]))


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Put files there: bytes and texts as they are, anything else as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, (bytes, str)) else json.dumps(content)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder
