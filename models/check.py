"""Preflight: everything that is wrong with a model directory, found at once and before any work."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..runtime import chat_template
from ..runtime.manifest import ENCODER
from ..runtime.memory import available_memory, size_text
from ..schedules.layouts.scheme import weight_format
from .generation import GENERATION_FILE, generation_defaults
from .pooling import prompt_notes, read_pooling
from .problems import ModelError, Problem, error
from .registry import FamilyConfig, architecture
from .source import Verifiable, open_source
from .weights import TensorInfo, TensorSource, match_weights


def check_model(path: str | Path) -> list[Problem]:
    """Problems with the config, weights, tokenizer and generation defaults of a model, and notes on its memory.

    The list is empty of errors where the model can be compiled. Weight values are not judged.
    """
    source = open_source(path)
    try:
        raw = source.config()
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
        checkpoint = source.checkpoint()
        if config is not None:
            match = match_weights(family.weights(config), checkpoint, ignored=family.ignored)
            problems += [Problem("note", note) for note in match.notes]
            problems += _check_memory(config, checkpoint, family.kind)
        if isinstance(source, Verifiable):
            problems += source.verify()
    except ModelError as exception:
        problems += exception.problems
    try:
        files = source.files()
    except ModelError as exception:
        return problems + list(exception.problems)
    problems += _check_pooling(files, source.directory)
    return (
        problems
        + _check_tokenizer(files.get("tokenizer.json"), config)
        + _check_template(files)
        + _check_generation(files, raw, config)
    )


def _check_memory(config: FamilyConfig, checkpoint: TensorSource, kind: str) -> list[Problem]:
    """What weights and KV cache take, against what this machine has."""
    weights = sum(map(_weight_bytes, checkpoint.tensors.values()))
    layers = 1 if kind == ENCODER else config.num_layers  # whose keys and values are kept
    token = 2 * layers * config.num_kv_heads * config.head_dim * 2
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


def _check_pooling(files: Mapping[str, bytes], directory: Path) -> list[Problem]:
    """Whether the files of sentence-transformers say something that can be done."""
    try:
        read_pooling(files, directory)
    except ModelError as exception:
        return list(exception.problems)
    return prompt_notes(files)


def _weight_bytes(info: TensorInfo) -> int:
    """Bytes of a weight as it is compiled where nothing else is asked for: quantized ones have a layout for their codes."""
    name = info.quant and (info.quant.holds or info.quant.suggests)
    bits = {"float32": 32.0, "float16": 16.0, "bfloat16": 16.0}.get(info.dtype, 0.0)
    if name:
        bits = weight_format(name).bits_per_weight(info.shape[-1])
    return round(math.prod(info.shape) * bits / 8)


def _check_tokenizer(file: bytes | None, config: FamilyConfig | None) -> list[Problem]:
    """Whether tokenizer.json can be read and fits the vocabulary."""
    if file is None:
        kinds = "tokenizer.json, tokenizer.model, *.tiktoken, vocab.json with merges.txt, or vocab.txt"
        fix = f"copy it from the model's origin: {kinds}"
        why = "prompts can then be given as token ids only"
        return [Problem("warning", "there is no tokenizer", why, fix)]
    try:
        tokenizer = Tokenizer.from_buffer(file)
    except Exception as exception:  # tokenizers raises bare Exception
        return [error("tokenizer.json cannot be read", str(exception), "download the file again")]
    ids = set(tokenizer.get_vocab(with_added_tokens=True).values())
    if config is None or not (beyond := {number for number in ids if number >= config.vocab_size}):
        return []
    why = f"vocab_size in config.json is {config.vocab_size}"
    added = tokenizer.get_added_tokens_decoder()
    if beyond <= set(added):  # Gemma 3 without vision has the token of an image all the same
        texts = ", ".join(repr(added[number].content) for number in sorted(beyond)[:4])
        what = f"the model does not know {texts} of the tokenizer"
        return [Problem("warning", what, why, "prompts with such a token are refused")]
    fix = "tokenizer and config must be of one model"
    return [error(f"the tokenizer has token id {max(beyond)}", why, fix)]


def _check_template(files: Mapping[str, bytes]) -> list[Problem]:
    """Whether the chat template makes a text of a short conversation. That it has something against it is its good right."""
    own = files.get("chat_template.jinja")
    try:
        found = own.decode() if own is not None else _config_template(files)
        listed = [part["template"] for part in found] if isinstance(found, list) else [found]
    except (ValueError, AttributeError, LookupError, TypeError) as exception:
        name = "tokenizer_config.json" if own is None else "chat_template.jinja"
        return [error(f"{name} cannot be read", str(exception), "download the file again")]
    variables = {"messages": [{"role": "user", "content": "Hello"}], "add_generation_prompt": True}
    frame = {"bos_token": "", "eos_token": ""}
    problems = []
    for template in listed:
        try:
            if isinstance(template, str):
                chat_template.render(template, {**variables, **frame})
        except chat_template.TemplateError as exception:
            if exception.kind in ("TemplateSyntaxError", "SecurityError", *chat_template.BOUNDS):
                fix = "give another template (`heddle serve --chat-template`), or complete prompts"
                problems.append(Problem("warning", "the chat template cannot be used", str(exception), fix))
    return problems


def _config_template(files: Mapping[str, bytes]) -> Any:
    return json.loads(files.get("tokenizer_config.json", b"{}")).get("chat_template")


def _check_generation(files: Mapping[str, bytes], raw: Mapping[str, Any], config: FamilyConfig | None) -> list[Problem]:
    """Whether generation_config.json can be read, and whether its end tokens are the model's."""
    try:
        ids = generation_defaults(files.get(GENERATION_FILE), raw)["eos_token_ids"]
    except ModelError as exception:
        return list(exception.problems)
    if config is None or not (beyond := [number for number in ids if not 0 <= number < config.vocab_size]):
        return []
    why = f"the vocabulary has {config.vocab_size} tokens, so {'no token ends' if beyond == ids else 'these do not end'} a text"
    return [Problem("warning", f"eos_token_id is {', '.join(map(str, beyond))}", why, "take the id from the tokenizer")]
