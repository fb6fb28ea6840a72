"""Quantizing weights: the search for scales, two-level scales, and which site gets which scheme."""

from __future__ import annotations

from .choose import Quant, choose_schemes, finite_problems, model_sites, names, parse_options, scheme_problems
from .encode import dequantize, quantize
from .site_map import parse_sites

__all__ = [
    "Quant",
    "choose_schemes",
    "dequantize",
    "finite_problems",
    "model_sites",
    "names",
    "parse_options",
    "parse_sites",
    "quantize",
    "scheme_problems",
]
