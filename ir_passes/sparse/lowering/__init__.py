"""Lowering of programs to s_tir."""

from __future__ import annotations

from .inits import decompose_inits
from .lower import lower

__all__ = ["decompose_inits", "lower"]
