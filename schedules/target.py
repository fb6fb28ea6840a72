"""Target profiles as data: what code may be generated, and what a CPU must have to run it."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

from ..runtime.features import architecture, cpu_features
from .compat import Target

_V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
VNNI = frozenset(["avx512_vnni", "avx_vnni"])


@dataclasses.dataclass(frozen=True)
class TargetProfile:
    """One instruction set that kernels are generated for.

    `features` are the flags (spelled as in /proc/cpuinfo) that a CPU must have; `vector_bits` and `vector_registers` size
    the register tiles of the kernels. Kernels of one op give the same bits on every profile.
    """

    name: str
    arch: str
    mcpu: str
    mattr: tuple[str, ...]
    features: frozenset[str]
    vector_bits: int
    vector_registers: int

    @property
    def vnni(self) -> bool:
        """Whether one instruction sums four products of bytes (vpdpbusd), in vectors of `vector_bits`."""
        return not self.features.isdisjoint(VNNI)

    def tvm_target(self) -> Target:
        """The TVM target. Never the host's detected CPU name: virtual machines mask features behind it."""
        return Target(self.tvm_spec())

    def tvm_spec(self) -> dict[str, object]:
        """The TVM target as JSON."""
        spec: dict[str, object] = {"kind": "llvm", "mcpu": self.mcpu, "opt-level": 3}
        return spec | ({"mattr": list(self.mattr)} if self.mattr else {})

    def missing_features(self, available: frozenset[str]) -> list[str]:
        """Required flags that `available` lacks, sorted."""
        return sorted(self.features - available)


PROFILES: dict[str, TargetProfile] = {
    p.name: p
    for p in (
        TargetProfile("x86-64-v3", "x86_64", "x86-64-v3", (), _V3, 256, 16),
        TargetProfile("x86-64-v3-vnni", "x86_64", "x86-64-v3", ("+avxvnni",), _V3 | {"avx_vnni"}, 256, 16),
        TargetProfile("x86-64-v4", "x86_64", "x86-64-v4", (), _V4, 512, 32),
        TargetProfile("x86-64-v4-vnni", "x86_64", "x86-64-v4", ("+avx512vnni",), _V4 | {"avx512_vnni"}, 512, 32),
    )
}


def resolve_target(name: str = "native") -> TargetProfile:
    """The profile called `name`; `native` is the widest one that this CPU can run, with the most features.

    Raises ValueError for an unknown name, and where no profile fits this CPU (with the flags that are missing).
    """
    if name != "native":
        if name not in PROFILES:
            raise ValueError(f"unknown target {name!r}; choose one of: native, {', '.join(PROFILES)}")
        return PROFILES[name]
    mine = [p for p in PROFILES.values() if p.arch == architecture()]
    fitting = [p for p in mine if not p.missing_features(cpu_features())]
    if not fitting:
        lacks = "; ".join(f"{p.name} needs {', '.join(p.missing_features(cpu_features()))}" for p in mine)
        raise ValueError(
            f"no target profile fits this {architecture()} CPU ({lacks or 'no profile for this architecture'})"
        )
    return max(fitting, key=lambda p: (p.vector_bits, len(p.features)))


_CURRENT: contextvars.ContextVar[TargetProfile | None] = contextvars.ContextVar("heddle_target", default=None)


@contextlib.contextmanager
def profile_scope(profile: TargetProfile) -> Iterator[TargetProfile]:
    """Legalization inside this scope generates kernels for `profile` (FLegalize takes no argument of ours)."""
    token = _CURRENT.set(profile)
    try:
        yield profile
    finally:
        _CURRENT.reset(token)


def current_profile() -> TargetProfile:
    """The profile of the enclosing `profile_scope`; RuntimeError outside of one."""
    profile = _CURRENT.get()
    if profile is None:
        raise RuntimeError("no target profile is set: legalize inside `with profile_scope(profile):`")
    return profile
