"""The pooling of a model in its artifact: a record in the manifest, and the tensors of its layers in a file of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..models.pooling import Dense, Pooling
from ..runtime.manifest import POOLING_FILE, DenseInfo, PoolingInfo
from .artifact_writer import ArtifactWriter


def pooling_info(pooling: Pooling) -> PoolingInfo:
    """The manifest's record."""
    layers, pooler = (_infos(name, found) for name, found in _stacks(pooling))
    return PoolingInfo(pooling.mode, pooling.normalize, pooling.max_tokens, layers, pooler)


def write_pooling(pooling: Pooling, writer: ArtifactWriter) -> None:
    """The file with the tensors of all layers, where there are any."""
    tensors: dict[str, np.ndarray] = {}
    for name, layers in _stacks(pooling):
        for info, layer in zip(_infos(name, layers), layers, strict=True):
            tensors[info.weight] = layer.weight
            if layer.bias is not None:
                tensors[info.bias] = layer.bias
    if tensors:
        specs = [(name, "float32", array.shape) for name, array in tensors.items()]
        writer.write_weights(POOLING_FILE, specs, tensors.__getitem__)


def _stacks(pooling: Pooling) -> tuple[tuple[str, Sequence[Dense]], ...]:
    return ("layers", pooling.layers), ("pooler", pooling.pooler)


def _infos(name: str, layers: Sequence[Dense]) -> tuple[DenseInfo, ...]:
    return tuple(
        DenseInfo(f"{name}.{i}.weight", "" if layer.bias is None else f"{name}.{i}.bias", layer.activation)
        for i, layer in enumerate(layers)
    )
