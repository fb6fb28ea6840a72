"""tiktoken's files: lines of a token in base64 and its rank, which is its id and says how early it is merged.

A file says neither how a text is cut nor which special tokens there are; that is code in the original
(https://github.com/openai/tiktoken, Llama 3's and Qwen's tokenizer modules), and a table here.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping

from .byte_level import byte_level_rules, spell
from .rules import Rules, added_token, all_merges, broken, frame
from .splits import CL100K, GPT2, LLAMA3, O200K, QWEN2


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What a file of ranks leaves open. `specials` are ids by token; `size` is the number of ranks of the original file."""

    size: int
    pattern: str
    specials: Mapping[str, int]
    nfc: bool = False
    bos: str | None = None
    eos: str | None = None


def _numbered(first: int, tokens: list[str]) -> dict[str, int]:
    return {token: first + i for i, token in enumerate(tokens)}


_LLAMA3_NAMES = {
    0: "begin_of_text",
    1: "end_of_text",
    4: "finetune_right_pad_id",
    6: "start_header_id",
    7: "end_header_id",
    8: "eom_id",
    9: "eot_id",
    10: "python_tag",
}
_LLAMA3_OTHERS = iter(range(256))
_LLAMA3 = [f"<|{_LLAMA3_NAMES.get(i) or f'reserved_special_token_{next(_LLAMA3_OTHERS)}'}|>" for i in range(256)]
_QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
_FIM = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]

ENCODINGS = {
    "gpt2": Encoding(50256, GPT2, {"<|endoftext|>": 50256}, eos="<|endoftext|>"),
    "cl100k": Encoding(
        100256,
        CL100K,
        {"<|endoftext|>": 100257, **_numbered(100258, _FIM), "<|endofprompt|>": 100276},
        eos="<|endoftext|>",
    ),
    "o200k": Encoding(199998, O200K, {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}, eos="<|endoftext|>"),
    "qwen": Encoding(151643, QWEN2, _numbered(151643, _QWEN), nfc=True, eos="<|endoftext|>"),
    "llama3": Encoding(128000, LLAMA3, _numbered(128000, _LLAMA3), bos="<|begin_of_text|>", eos="<|end_of_text|>"),
    "glm4": Encoding(151329, LLAMA3, {}, eos="<|endoftext|>"),
}
"""By names that file names begin with."""


def read_ranks(data: bytes) -> dict[bytes, int]:
    """Ranks by token. ModelError where a line is none, or a byte has no token."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as exception:
            raise broken(
                f"line {number} of the tiktoken file is {line[:40]!r}", "it must be base64 and a rank"
            ) from exception
    missing = [byte for byte in range(256) if bytes((byte,)) not in ranks]
    if missing:
        raise broken(f"the tiktoken file has no token for {len(missing)} bytes", f"the first is {missing[0]:#04x}")
    if len(set(ranks.values())) != len(ranks):
        raise broken("two tokens of the tiktoken file have the same rank")
    return ranks


def encoding_of(name: str, ranks: Mapping[bytes, int], model_type: str = "") -> Encoding:
    """How a file of ranks is used: known by its name, its size, or the model. ModelError where nothing tells."""
    for key, encoding in ENCODINGS.items():
        if name.lower().startswith(key) or len(ranks) == encoding.size:
            return encoding
    by_model = {"llama": "llama3", "qwen": "qwen", "qwen2": "qwen", "glm4": "glm4", "chatglm": "glm4"}
    if model_type in by_model:
        return ENCODINGS[by_model[model_type]]
    why = f"{name} has {len(ranks)} ranks; files are known by a name that begins with {', '.join(ENCODINGS)}"
    raise broken("nothing says how the tokenizer cuts a text", why, "rename the file, or take a tokenizer.json")


def tiktoken_rules(ranks: Mapping[bytes, int], encoding: Encoding) -> Rules:
    """The tokenizer, with the special tokens of `encoding` whose ids are free."""
    spelled = {spell(token): rank for token, rank in ranks.items()}
    merges = all_merges(sorted(spelled, key=spelled.__getitem__))
    normalizer = {"type": "NFC"} if encoding.nfc else None
    rules = byte_level_rules(spelled, merges, [encoding.pattern], normalizer=normalizer, whole_words=True)
    taken = set(ranks.values())
    free = {token: i for token, i in encoding.specials.items() if i not in taken}
    rules.added = [added_token(i, token, special=True) for token, i in free.items()]
    if encoding.bos in free:
        rules.post_processor = frame([(encoding.bos, free[encoding.bos])], [])
    return rules
