"""The language model inside a model that also sees: its part of config.json, and its names in the checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .config import ConfigReader
from .decoder_config import DecoderConfig
from .problems import ModelError, Problem, raise_errors
from .weights import Weight

IGNORED_TOWERS = r"(model\.)?(vision_tower|multi_modal_projector)\..*"
"""Tensors that text alone does not need."""


def language_config(
    raw: Mapping[str, Any],
    architecture: str,
    readers: Mapping[str, Callable[[Mapping[str, Any]], DecoderConfig]],
    *,
    keys: Sequence[str],
    defaults: Mapping[str, Any],
) -> DecoderConfig:
    """The config of `text_config`, by the reader of its model_type; the first of `readers` where it names none.

    `keys` of the outer config are about images. `defaults` stand for what `text_config` leaves out. Type of the weights and tied
    embeddings may be given outside. ModelError lists the problems of both.
    """
    reader = ConfigReader(raw)
    reader.seen.update(("architectures", "model_type", "vision_config", *keys))
    text = reader.get("text_config")
    if not isinstance(text, Mapping):
        if reader.valid("text_config"):
            reader.bad("text_config", f'config key "text_config" is {text!r:.80}', "it must be an object")
        text = {}
    shared = ("tie_word_embeddings", "dtype", "torch_dtype")
    outer = {key: value for key in shared if (value := reader.get(key, None)) is not None}
    inner = ConfigReader(text, where="text_config.")
    kind = inner.choice("model_type", tuple(readers), next(iter(readers)))
    reader.check_unknown()
    problems: list[Problem] = [*reader.problems, *inner.problems]
    try:
        config = readers[kind]({**defaults, **text, **outer})
    except ModelError as exception:
        raise_errors("config.json", [*problems, *exception.problems])
        raise
    raise_errors("config.json", problems)
    return dataclasses.replace(config, architecture=architecture)


def language_table(table: Sequence[Weight]) -> tuple[Weight, ...]:
    """A language model's table with the names that its tensors have inside such a model, in older checkpoints and in newer."""

    def names(name: str) -> tuple[str, ...]:
        inner = name.removeprefix("model.")
        return (f"language_model.{name}", f"model.language_model.{inner}", name)

    return tuple(dataclasses.replace(row, source=sum((names(n) for n in row.source), ())) for row in table)
