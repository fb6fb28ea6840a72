"""The weights of an artifact in memory, as tensors that compiled code reads in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from .artifact import Artifact, ModuleArtifact
from .errors import ArtifactError
from .memory import LoadReport, load_file
from .safetensors import read_header
from .tvm import tensor


def load_weights(artifact: Artifact | ModuleArtifact) -> tuple[LoadReport, np.ndarray, dict[str, Any]]:
    """The bytes of the weight file in memory, and tensors by name over them; ArtifactError where the manifest disagrees."""
    path = artifact.file(artifact.weights.file)
    entries = read_header(path)
    for name, info in artifact.weights.tensors.items():
        found = entries.get(name)
        if found is None or (found.dtype, found.shape) != (info.dtype, info.shape):
            held = f"{found.dtype}{list(found.shape)}" if found else "no such tensor"
            raise ArtifactError(
                f"tensor {name!r} of manifest.weights is {info.dtype}{list(info.shape)}, {path.name} has {held}",
                fix="copy the artifact again, or compile again",
            )
    data, report = load_file(path)
    return report, data, {name: tensor(entry.view(data)) for name, entry in entries.items()}
