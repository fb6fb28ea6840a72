"""A model compiled once, for every graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from heddle.ir_passes.fuse_epilogue import FuseEpilogue
from heddle.ir_passes.passes import PassLog
from heddle.runtime.tvm import to_numpy
from heddle.schedules.compat import relax, tvm
from heddle.schedules.target import TargetProfile, profile_scope, resolve_target

from .graph import Graph
from .models import Model


class Network:
    """The compiled function of a model with its weights: `network(graph, x)`."""

    def __init__(self, model: Model, weights: Mapping[str, np.ndarray], target: TargetProfile | None = None) -> None:
        self.model = model
        self.weights = [share(weights[name]) for name in model.weight_shapes()]
        profile = target or resolve_target()
        with profile_scope(profile), profile.tvm_target():
            mod = FuseEpilogue()(model.module(), PassLog(phase="fuse_epilogue"))
            mod = relax.transform.LegalizeOps()(mod)
            pipeline = relax.get_pipeline("default_build")
            executable = relax.build(mod, target=profile.tvm_target(), relax_pipeline=pipeline)
        self._main = relax.VirtualMachine(executable, tvm.cpu())["main"]

    def prepare(self, graph: Graph, x: np.ndarray) -> list[Any]:
        """The arguments for a graph with features x float32 [nodes, features], converted once for many runs."""
        arrays = self.model.arrays(graph) | {"x": x}
        return [*(share(array) for array in arrays.values()), *self.weights]

    def run(self, arguments: list[Any]) -> np.ndarray:
        """float32 [nodes, last width] of prepared arguments."""
        return to_numpy(self._main(*arguments))

    def __call__(self, graph: Graph, x: np.ndarray) -> np.ndarray:
        """float32 [nodes, last width]."""
        return self.run(self.prepare(graph, x))


def share(array: np.ndarray) -> Any:
    """A copy that compiled code may read: aligned to 64 bytes."""
    return tvm.runtime.tensor(np.ascontiguousarray(array))
