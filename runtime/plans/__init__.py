"""Plans: what the rows of one step are, in one int32 vector that compiled kernels and the runtime share."""

from __future__ import annotations

from .build import PlanBuilder, build_plan
from .layout import KV_SEGMENT, KV_TILE, PAGE, PlanLayout
from .sequence import PlanSequence
from .step import Division, StepArrays

__all__ = [
    "KV_SEGMENT",
    "KV_TILE",
    "PAGE",
    "Division",
    "PlanBuilder",
    "PlanLayout",
    "PlanSequence",
    "StepArrays",
    "build_plan",
]
