"""The files in which the exporting process hands over a program."""

from __future__ import annotations

RESULT = "result.json"
"""{"problems": [[what, why, fix], ...]}, or the signature: inputs, outputs, bounds, returns."""
PROGRAM = "program.json"
WEIGHTS = "weights.safetensors"
EXAMPLES = "examples.safetensors"
"""Tensors `input.N` and `output.N`: the example arguments, and what torch makes of them."""
