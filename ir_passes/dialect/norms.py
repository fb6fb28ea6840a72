"""Normalisation of rows, or of each head of a row."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...schedules.compat import nn, relax
from ...schedules.cpu.norm import Norm
from ...schedules.registry import Tolerance
from .registry import DialectOp, Expr, Sample, attr, call_kernel, dialect_op, make_kernel, shape_of, tensor


def _legalize(kind: str) -> Any:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
        features, groups = shape_of(call.args[0])[1], attr(call, "groups")
        params = {"features": features, "groups": groups, "eps": attr(call, "eps")}
        params["shared"] = shape_of(call.args[1])[0] == features // groups
        if kind == "layer":
            params["bias"] = len(call.args) == 3
        return call_kernel(builder, make_kernel(f"{kind}_norm", **params), f"{kind}_norm", call.args, call.ty)

    return legalize


def _reference(kind: str) -> Any:
    def reference(x: np.ndarray, *operands: np.ndarray, eps: float, groups: int) -> tuple[np.ndarray, ...]:
        return (Norm(kind, x.shape[1] // groups, eps, len(operands) == 2).reference(x, *operands),)

    return reference


def _samples(biases: int) -> Any:
    def samples(rng: np.random.Generator, dtype: str) -> list[Sample]:
        found = []
        for groups, size in ((1, 40), (4, 10), (2, 40)):
            for extra in range(biases + 1):
                shapes = [(5, 40), *[(size,)] * (1 + extra)]
                arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
                found.append(Sample(arrays, {"eps": 1e-5, "groups": groups}))
        return found

    return samples


def _norm_op(kind: str, doc: str, biases: int) -> DialectOp:
    return dialect_op(
        f"{kind}_norm",
        doc,
        infer=lambda call: tensor(shape_of(call.args[0])),
        legalize=_legalize(kind),
        reference=_reference(kind),
        samples=_samples(biases),
        tolerance=Tolerance(1e-6, "float32 sums"),
        flops=lambda call: 4 * shape_of(call.args[0])[0] * shape_of(call.args[0])[1],
    )


rms_norm_op = _norm_op("rms", "x / sqrt(mean(x**2) + eps) * weight over each of `groups` parts of a row", 0)
layer_norm_op = _norm_op(
    "layer", "(x - mean) / sqrt(var + eps) * weight (+ bias) over each of `groups` parts of a row", 1
)


def rms_norm(x: nn.Tensor, weight: nn.Tensor, *, eps: float, groups: int = 1) -> nn.Tensor:
    """x float32 [n, groups * D], weight float32 [D], or [groups * D] for weights of each group's own: float32 like x.

    Each group (a head, where there are several) is divided by its own root mean square (Zhang and Sennrich 2019). ValueError
    for sizes that do not fit.
    """
    _check(groups, x, weight)
    return rms_norm_op.emit(x, weight, eps=float(eps), groups=groups)


def layer_norm(
    x: nn.Tensor, weight: nn.Tensor, bias: nn.Tensor | None = None, *, eps: float, groups: int = 1
) -> nn.Tensor:
    """x float32 [n, groups * D], weight and bias float32 [D] or both [groups * D]: float32 like x (Ba et al. 2016).

    The variance is the mean square, without Bessel's correction. ValueError for sizes that do not fit.
    """
    operands = [weight] + ([bias] if bias is not None else [])
    _check(groups, x, *operands)
    return layer_norm_op.emit(x, *operands, eps=float(eps), groups=groups)


def _check(groups: int, x: nn.Tensor, *operands: nn.Tensor) -> None:
    features = int(x.shape[1])
    sizes = {int(o.shape[0]) for o in operands}
    if features % groups or len(sizes) > 1 or not sizes <= {features, features // groups}:
        raise ValueError(
            f"a norm of {features} features in {groups} groups has operands of {', '.join(map(str, sorted(sizes)))} elements; "
            f"give it {features // groups} (shared by the groups) or {features}"
        )


def norm_kind(expr: Expr) -> str:
    """rms or layer for a call of that norm, "" for anything else."""
    return "rms" if rms_norm_op.matches(expr) else "layer" if layer_norm_op.matches(expr) else ""


NO_NORM = {"norm": "", "norm_eps": 0.0}
"""Attributes of a packing op that does not normalise; else `norm` is rms or layer, and the norm's operands follow x."""


def packing_norm(call: relax.Call) -> Norm | None:
    """The norm inside a call of `pack_rows` or `quant_pack`."""
    return norm_of(attr(call, "norm"), attr(call, "norm_eps"), shape_of(call.args[0])[1], len(call.args) - 1)


def norm_of(kind: str, eps: float, width: int, operands: int) -> Norm | None:
    """The norm of rows of `width` elements with so many operands; None for the kind ""."""
    return Norm(kind, width, eps, operands == 2) if kind else None
