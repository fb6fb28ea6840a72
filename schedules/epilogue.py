"""What a linear does with its finished sums before it stores them: its epilogue, some of these items in this order.

    bias            + bias [N]
    <kind>          kind(y), an activation function          (`activations.ACTIVATIONS`)
    gated:<kind>    kind(gate) * up; the weight is gate | up, so the linear has two parts
    scale:<factor>  * factor                                 (Granite, MiniCPM)
    residual        + residual [n, N]

Every item has the bits of the pointwise kernel that it stands for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .activations import ACTIVATIONS, activation, scaled
from .vector import Vec, const

Epilogue = Sequence[str]

GATED = "gated:"
SCALE = "scale:"
_ORDER = ("bias", "activation", "scale", "residual")


def check(epilogue: Epilogue) -> None:
    """ValueError for items that do not exist or stand in another order."""
    if obstacle(epilogue):
        raise ValueError(f"no linear kernel with the epilogue {tuple(epilogue)!r}: {obstacle(epilogue)}")


def obstacle(epilogue: Epilogue) -> str:
    """Why no kernel ends in `epilogue`; empty where they all do."""
    steps = [_step(item) for item in epilogue]
    if "" in steps:
        items = f"bias, {', '.join(ACTIVATIONS)}, {GATED}<one of these>, {SCALE}<factor>, residual"
        return f"there is no {epilogue[steps.index('')]!r}; choose of {items}"
    places = [_ORDER.index(step) for step in steps]
    if any(a >= b for a, b in itertools.pairwise(places)):
        return f"the order is {', '.join(_ORDER)}, each once at most"
    return ""


def _step(item: str) -> str:
    if item in ("bias", "residual"):
        return item
    if item.removeprefix(GATED) in ACTIVATIONS:
        return "activation"
    return "scale" if item.startswith(SCALE) else ""


def parts(epilogue: Epilogue) -> int:
    """Parts of the weight: two where the linear is gated, gate | up."""
    return 2 if any(item.startswith(GATED) for item in epilogue) else 1


def exact(epilogue: Epilogue) -> bool:
    """Whether the epilogue has no polynomial: relu and sums alone."""
    return all(item in ("bias", "relu", "relu2", "residual") or item.startswith(SCALE) for item in epilogue)


def finished(epilogue: Epilogue, sums: Sequence[Vec]) -> Vec:
    """The output before the residual, of the sums of each part with their bias."""
    value = sums[0]
    for item in epilogue:
        if _step(item) == "activation":
            value = activation(item.removeprefix(GATED)).lanes(value)
            if len(sums) == 2:
                value = scaled(value, sums[1]) if "residual" in epilogue else value * sums[1]
        elif item.startswith(SCALE):
            value = scaled(value, const(float(item.removeprefix(SCALE))))
    return value


def reference(y: np.ndarray, epilogue: Epilogue, bias: np.ndarray | None, residual: np.ndarray | None) -> np.ndarray:
    """The epilogue of y [n, parts * N] in the precision of y; `bias` [parts * N], `residual` [n, N] where it has them."""
    for item in epilogue:
        if item == "bias":
            y = y + bias
        elif item == "residual":
            y = y + residual
        elif item.startswith(SCALE):
            y = y * np.float32(item.removeprefix(SCALE))
        else:
            kind = activation(item.removeprefix(GATED)).reference
            y = kind(y) if parts([item]) == 1 else kind(y[:, : y.shape[1] // 2]) * y[:, y.shape[1] // 2 :]
    return y
