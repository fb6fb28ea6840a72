"""Quantizing weights: the search for scales, two-level scales, and which site gets which scheme."""

from __future__ import annotations

from .encode import dequantize, quantize
from .site_map import parse_sites

__all__ = ["dequantize", "parse_sites", "quantize"]
