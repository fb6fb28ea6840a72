"""Quantizing weights: the search for scales, two-level scales, codes that are kept, and which site gets which scheme."""

from __future__ import annotations

from .choose import (
    Choice,
    Quant,
    choose,
    choose_schemes,
    finite_problems,
    model_sites,
    names,
    parse_options,
    scheme_problems,
)
from .encode import dequantize, quantize
from .keep import stored_quant
from .site_map import parse_sites

__all__ = [
    "Choice",
    "Quant",
    "choose",
    "choose_schemes",
    "dequantize",
    "finite_problems",
    "model_sites",
    "names",
    "parse_options",
    "parse_sites",
    "quantize",
    "scheme_problems",
    "stored_quant",
]
