"""A case of the zoo: one random model, as transformers makes it, of one architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {"num_hidden_layers": 2, "intermediate_size": 172, "vocab_size": 331, "max_position_embeddings": 256}


@dataclasses.dataclass(frozen=True)
class Case:
    """`config()` makes a transformers config; `shows` says what the case covers.

    Architectures that transformers lacks have `save(path)` instead: it writes the model to `path` and gives the directory of
    another model, which transformers has and which computes the same. The first case of each architecture runs in the default
    tests, unless it is `slow` because another architecture's shows the same.
    """

    architecture: str
    name: str
    shows: str
    config: Callable[[], Any] | None = None
    save: Callable[[Path], Path] | None = None
    vocab: int = SIZES["vocab_size"]
    slow: bool = False


def rope(**values: Any) -> dict[str, Any]:
    """rope_parameters of a type, `default` unless given."""
    return {"rope_type": "default", "rope_theta": 10000.0} | values


def made(kind: str, **options: Any) -> Callable[[], Any]:
    """What makes a transformers config of class `kind`, with SIZES and 6 heads on 2 key heads unless given."""

    def config() -> Any:
        import transformers

        sizes = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2}
        return getattr(transformers, kind)(**(SIZES | sizes | options))

    return config
