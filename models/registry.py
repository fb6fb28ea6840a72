"""The registry of architectures: what `architectures` in a config.json may say, and who handles it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..runtime.manifest import DECODER
from ..runtime.plans import PlanLayout
from ..schedules.compat import tvm
from .problems import ModelError, error, nearest
from .weights import WeightSpec

FamilyConfig = Any  # a family's frozen dataclass; the fields that the compiler reads are those of DecoderConfig


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One architecture of one family.

    `config(raw)` reads a raw config.json (ModelError lists all of its problems). `weights(config)` names every
    parameter of the exported functions with its place in the checkpoint; `ignored` is a regular expression of tensors
    that a checkpoint may hold beside these. `export(config, dtypes=..., kv_dtype=..., plan_layout=...)` gives an
    IRModule with the functions `embed`, `body` and `head`. An `encoder` has no `head` and keeps one layer of keys and values;
    `poolers` are the tensors' prefixes under which its checkpoints may have a pooler.
    """

    name: str
    model_type: str
    config: Callable[[Mapping[str, Any]], FamilyConfig]
    weights: Callable[[FamilyConfig], dict[str, WeightSpec]]
    _export: Callable[[FamilyConfig, Mapping[str, str], str, PlanLayout], tvm.IRModule]
    ignored: str = ""
    kind: str = DECODER
    poolers: tuple[str, ...] = ()

    def export(
        self, config: FamilyConfig, *, dtypes: Mapping[str, str], kv_dtype: str, plan_layout: PlanLayout
    ) -> tvm.IRModule:
        """The model as dialect calls.

        `dtypes` gives the stored type (float32, float16, bfloat16) of each linear and embedding weight by parameter
        name, float32 where it has none; norm weights and biases are float32 always. `kv_dtype` is the type of the KV
        cache.
        """
        return self._export(config, dtypes, kv_dtype, plan_layout)


ARCHITECTURES: dict[str, Architecture] = {}


def register(architecture: Architecture) -> Architecture:
    """Add an architecture to the registry."""
    if architecture.name in ARCHITECTURES:
        raise ValueError(f"architecture {architecture.name} is registered twice")
    ARCHITECTURES[architecture.name] = architecture
    return architecture


def architecture(raw: Mapping[str, Any]) -> Architecture:
    """The architecture that a raw config names, by `architectures` or, where that is absent, by `model_type`.

    Where nothing known has that name, installed packages are asked (plugins.py).
    """
    names, model_type = raw.get("architectures"), raw.get("model_type")
    every = ARCHITECTURES.values()
    if not any(a.name in names if isinstance(names, list) else a.model_type == model_type for a in every):
        from .plugins import load_installed  # it imports this module

        load_installed()
    known = ", ".join(sorted(ARCHITECTURES))
    fix = f"known architectures: {known}; others take a model file of your own (docs/tutorial_family.md)"
    if names is None and isinstance(model_type, str):
        for candidate in ARCHITECTURES.values():
            if candidate.model_type == model_type:
                return candidate
        raise ModelError(
            "config.json", [error(f'unknown model_type "{model_type}"', "and it has no `architectures`", fix)]
        )
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        what = "config.json does not name one architecture"
        raise ModelError("config.json", [error(what, f"`architectures` is {names!r:.80}", fix)])
    found = ARCHITECTURES.get(names[0])
    if found is None:
        raise ModelError(
            "config.json",
            [error(f'unknown architecture "{names[0]}"', nearest(names[0], ARCHITECTURES, cutoff=0.9), fix)],
        )
    if model_type not in (None, found.model_type):
        what = f'architecture "{found.name}" does not go with model_type "{model_type}"'
        raise ModelError("config.json", [error(what, "", f'"{found.model_type}" does; {fix}')])
    return found
