"""Models: configs, checkpoints, and the architectures as dialect programs."""

from __future__ import annotations

from . import families as _families  # registers the architectures
from .check import check_model
from .checkpoint import Checkpoint, open_checkpoint
from .config import load_config
from .problems import ModelError, Problem
from .quant_tensor import QuantInfo, QuantTensor
from .random_weights import RandomCheckpoint
from .registry import ARCHITECTURES, Architecture, architecture
from .source import ModelSource, open_source
from .weights import Parameters, TensorInfo, TensorSource, WeightMatch, WeightSpec, match_weights

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Checkpoint",
    "ModelError",
    "ModelSource",
    "Parameters",
    "Problem",
    "QuantInfo",
    "QuantTensor",
    "RandomCheckpoint",
    "TensorInfo",
    "TensorSource",
    "WeightMatch",
    "WeightSpec",
    "architecture",
    "check_model",
    "load_config",
    "match_weights",
    "open_checkpoint",
    "open_source",
]

del _families
