"""Reduction monoids: an identity, and a combination that a decomposition may apply in any number of parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ...schedules.compat import T, tirx
from .errors import SparseError

Expr = Any


@dataclasses.dataclass(frozen=True)
class Monoid:
    """`identity(dtype)` and `combine(a, b)`, as expressions."""

    name: str
    identity: Callable[[str], Expr]
    combine: Callable[[Expr, Expr], Expr]


SUM = Monoid("sum", lambda dtype: tirx.const(0, dtype), lambda a, b: a + b)
MAX = Monoid("max", tirx.min_value, T.max)
MIN = Monoid("min", tirx.max_value, T.min)

MONOIDS = {m.name: m for m in (SUM, MAX, MIN)}


@dataclasses.dataclass(frozen=True)
class SoftmaxState:
    """The state of a softmax-weighted sum: values `o` normalised by their weights, and the weights' log-sum-exp `lse`.

    Identity (0, -inf); merging weighs both values by exp(lse - max) (Ye et al., FlashInfer). It is what decomposed attention
    merges by; rows with no entries stay at the identity.
    """

    o: Expr
    lse: Expr

    def merge(self, other: SoftmaxState) -> SoftmaxState:
        """The state of both sets of entries together; neither may be the identity."""
        top = T.max(self.lse, other.lse)
        mine, theirs = tirx.exp(self.lse - top), tirx.exp(other.lse - top)
        total = mine + theirs
        return SoftmaxState((self.o * mine + other.o * theirs) / total, top + tirx.log(total))


def monoid(name: str) -> Monoid:
    """The monoid of that name; SparseError with the names there are."""
    if name not in MONOIDS:
        raise SparseError(
            f"unknown combination {name!r}",
            "a reduction needs an identity and an associative combination",
            f"use one of {', '.join(MONOIDS)}; a softmax is written as max, sum and a merge (see `softmax_steps`)",
        )
    return MONOIDS[name]
