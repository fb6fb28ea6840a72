"""The target profiles that this CPU runs, and which of them the default run leaves to `make test-all`."""

from __future__ import annotations

import pytest

from heddle.runtime.features import architecture, cpu_features
from heddle.schedules.compat import PrimFunc, tvm
from heddle.schedules.target import PROFILES, VECTOR, TargetProfile

TARGETS = [
    p
    for p in PROFILES.values()
    if p.arch == architecture() and p.kernels == VECTOR and not p.missing_features(cpu_features())
]
DOTS = ("quant_linear", "attention")
"""Beginnings of the names of kernels and ops with 8-bit dot products."""


def marks(target: TargetProfile, name: str) -> list[pytest.MarkDecorator]:
    """slow where a kernel is the same code as on another target: AVX-VNNI is AVX2 but for dot products."""
    same = target.name == "x86-64-v3-vnni" and not name.removeprefix("heddle.").startswith(DOTS)
    return [pytest.mark.slow] if same else []


def assembly(func: PrimFunc, target: TargetProfile) -> str:
    """The assembly of a kernel."""
    made = tvm.compile(func.with_attr("global_symbol", "main"), target=target.tvm_target())
    return getattr(made, "mod", made).inspect_source("asm")


ONCE = [pytest.param(target, id=target.name, marks=marks(target, "")) for target in TARGETS]
"""Targets as parameters of tests that are not about 8-bit dot products."""
