"""Rotary embeddings: llama.cpp's metadata and factor tensors as the `rope_parameters` of transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .metadata import Facts

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_parameters(facts: Facts, head_dim: int, context: int, *, partial: bool) -> dict[str, Any]:
    """The rotary embedding of a model whose heads have `head_dim` dimensions and whose context is `context` tokens.

    With `partial` the rotated part of a head is given even where it is the whole.
    """
    dim = facts.integer("rope.dimension_count", head_dim)
    theta = facts.number("rope.freq_base", 10000.0)
    rope: dict[str, Any] = {"rope_theta": theta, **_scaling(facts, dim, theta, context)}
    if partial or dim != head_dim:
        rope["partial_rotary_factor"] = partial_factor(dim, head_dim)
    return rope


def partial_factor(dim: int, head_dim: int) -> float:
    """The factor for which int(head_dim * factor) is `dim`, which is how it is used."""
    factor = dim / head_dim
    return factor if int(head_dim * factor) == dim else math.nextafter(factor, math.inf)


def _scaling(facts: Facts, dim: int, theta: float, context: int) -> dict[str, Any]:
    kind = facts.text("rope.scaling.type", "linear")
    factor = facts.number("rope.scaling.factor", facts.number("rope.scale_linear", 1.0)) or 1.0
    original = facts.integer("rope.scaling.original_context_length", context)
    attention = [facts.number(f"rope.scaling.{key}", 0.0) for key in ("attn_factor", "yarn_attn_factor")]
    beta = {f"beta_{end}": facts.number(f"rope.scaling.yarn_beta_{end}", 0.0) for end in ("fast", "slow")}
    if facts.has("rope_factors_long.weight", "rope_factors_short.weight"):
        return _longrope(facts, dim, context, original, attention[0])
    if theta <= 0 or factor <= 0:
        facts.bad(f"the rotary embedding has base {theta} and factor {factor}", "both must be positive")
        return {}
    if facts.has("rope_freqs.weight"):
        if kind not in ("linear", "none") or factor != 1:
            what = f"the rotary embedding is scaled twice, by rope_freqs.weight and as {kind:.40} by {factor}"
            facts.bad(what, "no model is known that needs both")
        return _by_factors(_factors(facts, "rope_freqs.weight", dim), theta)
    if kind != "yarn" and (any(factor not in (0, 1) for factor in attention) or any(beta.values())):
        facts.bad(f'rope scaling "{kind:.40}" with attn_factor, yarn_attn_factor or yarn_beta', "these are of yarn")
    if kind == "yarn":
        given = {key: value for key, value in beta.items() if value} | {"factor": factor}
        if any(attention):
            given["attention_factor"] = attention[1] or attention[0]
        return {"rope_type": "yarn", "original_max_position_embeddings": original, **given}
    if kind not in ("linear", "none", "longrope"):
        facts.bad(f'rope scaling "{kind:.40}" is not supported', "supported: linear, yarn, longrope")
    return {"rope_type": "linear", "factor": factor} if kind == "linear" and factor != 1 else {"rope_type": "default"}


def _factors(facts: Facts, name: str, dim: int) -> np.ndarray:
    """One of the tensors of divisors of the frequencies, float32 [dim / 2]."""
    shape = facts.shapes.get(name)
    if shape != (dim // 2,):
        facts.bad(f"tensor {name} is {list(shape) if shape else 'missing'}", f"expected shape [{dim // 2}]")
        return np.ones(1, np.float32)
    factors = facts.read(name).astype(np.float32)
    if not (np.isfinite(factors) & (factors > 0)).all():
        facts.bad(f"tensor {name} has values that are no divisors", "they must be finite and positive")
        return np.ones(1, np.float32)
    return factors


def _plain(factors: np.ndarray) -> list[float]:
    return [float(str(value)) for value in factors]  # the shortest decimals, as in config.json


def _longrope(facts: Facts, dim: int, context: int, original: int, attention: float) -> dict[str, Any]:
    short, long = (_plain(_factors(facts, f"rope_factors_{which}.weight", dim)) for which in ("short", "long"))
    rope: dict[str, Any] = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    growth = context / original
    usual = math.sqrt(1 + math.log(growth) / math.log(original)) if growth > 1 and original > 1 else 1.0
    if attention and abs(attention - usual) > 1e-5:
        rope["attention_factor"] = attention
    return rope | {"original_max_position_embeddings": original}


def _by_factors(factors: np.ndarray, theta: float) -> dict[str, Any]:
    """Divisors of the frequencies: those of Llama 3.x, or any others as longrope whose short and long factors are the same.

    Llama 3.x leaves short wavelengths alone, divides long ones by a factor and blends between; llama.cpp keeps the result only.
    """
    factor = float(factors.max())
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    wavelengths = 2 * math.pi * theta ** (np.arange(len(factors)) / len(factors))
    turns = _LLAMA3["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    if np.allclose(factors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-4, atol=0):
        return {"rope_type": "llama3", "factor": float(str(np.float32(factor))), **_LLAMA3}
    both = _plain(factors)
    return {"rope_type": "longrope", "short_factor": both, "long_factor": both, "attention_factor": 1.0}
