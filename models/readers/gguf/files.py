"""The small files that an artifact carries, out of a GGUF file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...problems import error, raise_errors
from ...tokenization import gguf_tokenizer
from .header import Strings

_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
_POOLINGS = {1: "mean", 2: "cls", 3: "last"}
_NUMBERS = {
    "tokenizer.ggml.scores": "f",
    "tokenizer.ggml.token_type": "iu",
    "tokenizer.ggml.precompiled_charsmap": "iu",
}
_LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.chat_templates")


def carried_files(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Tokenizer, generation defaults and pooling, as the files of a Hugging Face directory. ModelError names what is wrong."""
    wrong = [(key, value) for key, value in metadata.items() if key.startswith("tokenizer.") and not _typed(key, value)]
    fix = "convert the model again with a current llama.cpp"
    raise_errors(
        "the tokenizer", [error(f"{k!r:.80} has a value of another type", f"it is {v!r:.80}", fix) for k, v in wrong]
    )
    return _with_sampling(gguf_tokenizer(metadata), metadata) | _pooling(metadata)


def _typed(key: str, value: Any) -> bool:
    """Whether a key of the tokenizer has a value of the type that the specification gives it."""
    if key in _LISTS:
        return isinstance(value, Strings)
    if key in _NUMBERS:
        return isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS[key]
    if key.endswith("_token_id"):
        return type(value) is int
    if key.rpartition(".")[2].startswith(("add_", "remove_")):
        return isinstance(value, bool)
    return not key.startswith(("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template")) or isinstance(
        value, str
    )


def _with_sampling(files: dict[str, bytes], metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """The files with the sampling parameters that a model's makers recommend."""
    keys = {key: metadata.get(f"general.sampling.{key}") for key in _SAMPLING}
    given = {_SAMPLING[key]: value for key, value in keys.items() if isinstance(value, int | float)}
    if not given:
        return files
    known = json.loads(files.get("generation_config.json", b"{}"))
    return files | {"generation_config.json": json.dumps({**known, "do_sample": True, **given}).encode()}


def _pooling(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """What sentence-transformers keeps of a model whose embeddings llama.cpp pools; it scales all of them to length 1."""
    number = metadata.get(f"{metadata.get('general.architecture')}.pooling_type", 0)
    mode = _POOLINGS.get(number) if isinstance(number, int) else None
    if mode is None:
        return {}
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"pooling_mode": mode}
    return {"modules.json": json.dumps(modules).encode(), "1_Pooling/config.json": json.dumps(pooling).encode()}
