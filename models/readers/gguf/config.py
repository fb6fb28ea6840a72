"""The metadata of a GGUF file as a raw config in the form of Hugging Face's config.json."""

from __future__ import annotations

from typing import Any

from ...problems import ModelError, error, nearest
from .families import FAMILIES
from .family import Family, read_sizes
from .metadata import Facts
from .rope import rope_parameters

_MAX_LAYERS = 10000
_TOKENS = ("bos", "eos", "padding")


def family_of(facts: Facts, subject: str) -> Family:
    """The family of a model. ModelError lists those that can be read."""
    family = FAMILIES.get(facts.arch)
    if family is not None:
        return family
    what = f'unknown architecture "{facts.arch:.80}"' if facts.arch else "the file names no architecture"
    kind = facts.metadata.get("general.type", "model")
    why = nearest(facts.arch, FAMILIES) if kind == "model" else f"general.type says that it is a {kind!s:.40}"
    raise ModelError(subject, [error(what, why, f"known architectures: {', '.join(sorted(FAMILIES))}")])


def read_config(facts: Facts, dtype: str, subject: str) -> dict[str, Any]:
    """The config of a model whose floats are stored as `dtype`. ModelError with everything that is missing or unknown."""
    family = family_of(facts, subject)
    raw: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.model_type, "dtype": dtype}
    raw |= {key: facts.integer(source) for key, source in family.integers.items()}
    raw |= {key: facts.number(source) for key, source in family.numbers.items()}
    raw |= family.constants
    table = facts.shapes.get("token_embd.weight", ())
    if len(table) != 2:
        facts.bad("there is no table of tokens", "tensor token_embd.weight is missing or no matrix")
    else:
        raw["vocab_size"] = table[0]
    hidden, layers = facts.integer("embedding_length"), facts.integer("block_count")
    if layers > _MAX_LAYERS:
        facts.bad(f"there are {layers} layers", f"at most {_MAX_LAYERS} are possible", "download the file again")
        raise ModelError(subject, facts.problems)
    sizes = read_sizes(facts, hidden)
    if family.kv_heads:
        raw["num_key_value_heads"] = sizes.kv_heads
    if family.head_dim or sizes.head_dim * sizes.heads != hidden:
        raw["head_dim"] = sizes.head_dim
    raw["tie_word_embeddings"] = not facts.has("output.weight") if family.tied is None else family.tied
    context = facts.integer("context_length")
    if family.rope:
        raw["rope_parameters"] = rope_parameters(facts, sizes.head_dim, context, partial=family.partial)
    if family.more is not None:
        raw |= family.more(facts, raw)
    for token in _TOKENS:
        number = facts.metadata.get(f"tokenizer.ggml.{token}_token_id")
        if type(number) is int:
            raw[f"{'pad' if token == 'padding' else token}_token_id"] = number
    facts.check_unknown(inert=() if family.rope else ("rope.dimension_count", "rope.freq_base"))
    if facts.problems:
        raise ModelError(subject, facts.problems)
    return {key: value for key, value in raw.items() if value is not None}
