"""Models: configs, checkpoints, and the architectures as dialect programs."""

from __future__ import annotations

from . import llama as _llama  # registers its architectures
from .check import check_model
from .checkpoint import Checkpoint, open_checkpoint
from .config import load_config
from .problems import ModelError, Problem
from .random_weights import RandomCheckpoint
from .registry import ARCHITECTURES, Architecture, architecture
from .weights import TensorInfo, TensorSource, WeightMatch, WeightSpec, match_weights

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Checkpoint",
    "ModelError",
    "Problem",
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
]

del _llama
