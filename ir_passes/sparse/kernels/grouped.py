"""grouped_matmul: tokens times the matrix of their group, groups ragged (LoRA adapters, experts)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....schedules.compat import PrimFunc, s_tir, tirx
from ....schedules.registry import Case, Cost, Tolerance, kernel
from ....schedules.target import TargetProfile
from ..formats import group_arrays, grouped
from ..lowering import lower
from .programs import grouped_matmul as program
from .schedules import finish_schedule, schedule_groups


def _inputs(
    rng: np.random.Generator, *, features: int, out: int, tokens: int, groups: int, each: int, **_: Any
) -> list[np.ndarray]:
    chosen = np.argsort(rng.random((tokens, groups)), axis=1)[:, :each]
    chosen[::4] = -1  # tokens without a group
    arrays = group_arrays(chosen, groups)
    x, w = rng.standard_normal((tokens, features), np.float32), rng.standard_normal((groups, features, out), np.float32)
    return [*arrays, x, w]


def _reference(
    ids: np.ndarray, indptr: np.ndarray, token: np.ndarray, x: np.ndarray, w: np.ndarray, **_: Any
) -> tuple[np.ndarray]:
    y = np.zeros((len(x), w.shape[2]), np.float64)
    for group, start, end in zip(ids, indptr[:-1], indptr[1:], strict=True):
        np.add.at(y, token[start:end], x[token[start:end]].astype(np.float64) @ w[group])
    return (y.astype(np.float32),)


@kernel(
    reference=_reference,
    inputs=_inputs,
    cost=lambda *, features, out, tokens, groups, each, **_: Cost(
        bytes=4 * (groups * features * out + tokens * (features + out)), flops=2 * tokens * each * features * out
    ),
    tolerance=Tolerance(1e-5, "float32 sums over features in ascending order"),
    cases=[
        Case({"features": 24, "out": 32}, {"tokens": 13, "groups": 6, "each": 1}),
        Case({"features": 16, "out": 48}, {"tokens": 9, "groups": 4, "each": 2}),
        Case({"features": 7, "out": 16}, {"tokens": 1, "groups": 1, "each": 1}),
    ],
)
def grouped_matmul(*, features: int, out: int, target: TargetProfile) -> PrimFunc:
    """ids int32 [u], indptr int32 [u + 1], tokens int32 [e], x [n, features], w [groups, features, out] -> float32 [n, out].

    y[t] is the sum of x[t] @ w[g] over the groups of token t, 0 for a token without one (Chen et al., Punica).
    """
    del target
    used, entries, tokens, groups = (tirx.Var(name, "int64") for name in ("used", "entries", "tokens", "groups"))
    fmt = grouped(groups, tokens, used, entries, disjoint=False)
    sch = s_tir.Schedule(lower(program(fmt, tokens, groups, features, out)))
    return finish_schedule(schedule_groups(sch, out))
