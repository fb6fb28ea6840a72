"""Plans: what the rows of one step are, in one int32 vector that compiled kernels and the runtime share."""

from __future__ import annotations

from .build import PlanSequence, build_plan
from .layout import KV_SEGMENT, KV_TILE, PAGE, TILE_ROWS, PlanLayout

__all__ = ["KV_SEGMENT", "KV_TILE", "PAGE", "TILE_ROWS", "PlanLayout", "PlanSequence", "build_plan"]
