"""Preflight: everything that is wrong with a model directory, found at once and before any work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..runtime.memory import available_memory, size_text
from .checkpoint import open_checkpoint
from .config import load_config
from .problems import ModelError, Problem, error
from .registry import FamilyConfig, architecture
from .weights import TensorSource, match_weights


def check_model(path: str | Path) -> list[Problem]:
    """Problems with the config, weights, tokenizer and generation defaults of a model, and notes on its memory.

    The list is empty of errors where the model can be compiled. Weight values are not judged.
    """
    path = Path(path)
    try:
        raw = load_config(path)
    except ModelError as exception:
        return list(exception.problems)
    problems: list[Problem] = []
    config: FamilyConfig | None = None
    try:
        family = architecture(raw)
        config = family.config(raw)
    except ModelError as exception:
        problems += exception.problems
    try:
        checkpoint = open_checkpoint(path)
        if config is not None:
            match = match_weights(family.weights(config), checkpoint, ignored=family.ignored)
            problems += [Problem("note", note) for note in match.notes]
            problems += _check_memory(config, checkpoint)
    except ModelError as exception:
        problems += exception.problems
    return problems + _check_tokenizer(path, config) + _check_generation(path)


def _check_memory(config: FamilyConfig, checkpoint: TensorSource) -> list[Problem]:
    """What weights and KV cache take, against what this machine has."""
    widths = {"float32": 4, "float16": 2, "bfloat16": 2}
    counts = ((info, _count(info.shape)) for info in checkpoint.tensors.values())
    weights = sum(count * widths.get(info.dtype, 0) for info, count in counts)
    token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 2
    sequence = token * config.context_length
    available, source = available_memory()
    text = (
        f"weights take {size_text(weights)}, float16 keys and values {token / 1e3:.1f} kB a token, "
        f"{size_text(sequence)} a full context of {config.context_length} tokens"
    )
    problems = [Problem("note", text)]
    here = f"{size_text(available)} are available ({source})"
    if weights > available:
        fix = "quantize the model or take a machine with more memory"
        problems.append(Problem("warning", f"the weights take {size_text(weights)}", here, fix))
    elif weights + sequence > available:
        what = f"weights and one full context take {size_text(weights + sequence)}"
        problems.append(Problem("warning", what, here, "serve a shorter context"))
    return problems


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _check_tokenizer(path: Path, config: FamilyConfig | None) -> list[Problem]:
    """Whether tokenizer.json can be read and fits the vocabulary."""
    file = (path if path.is_dir() else path.parent) / "tokenizer.json"
    if not file.is_file():
        fix = "save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        why = "prompts can then be given as token ids only"
        return [Problem("warning", "there is no tokenizer.json", why, fix)]
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as exception:  # tokenizers raises bare Exception
        return [error("tokenizer.json cannot be read", str(exception), "download the file again")]
    top = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if config is not None and top >= config.vocab_size:
        why = f"vocab_size in config.json is {config.vocab_size}"
        return [error(f"the tokenizer has token id {top}", why, "tokenizer and config must be of one model")]
    return []


def _check_generation(path: Path) -> list[Problem]:
    """Whether generation_config.json, if there is one, is an object."""
    file = (path if path.is_dir() else path.parent) / "generation_config.json"
    if not file.is_file():
        return []
    why, fix = "it must be a JSON object", "download the file again"
    try:
        value: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as exception:
        value, why = [], str(exception)  # type: ignore[assignment]
    return [] if isinstance(value, dict) else [error("generation_config.json cannot be read", why, fix)]
