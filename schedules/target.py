"""Target profiles as data: what code may be generated, and what a machine must have to run it."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Sequence

from ..runtime.features import architecture, cpu_features
from .compat import Target

_V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
_DOTPROD = frozenset(["asimd", "asimddp"])

VECTOR, SCALAR, SIMT = KERNEL_SETS = ("vector", "scalar", "simt")
"""How the kernels' vectors of 16 lanes become code: as the target's vectors, as loops over lanes, as threads of a GPU."""


@dataclasses.dataclass(frozen=True)
class TargetProfile:
    """One instruction set that kernels are generated for.

    `arch` is that of the host; `spec` has the TVM target as pairs (values are hashable), `features` what the machine must have,
    spelled as in /proc/cpuinfo. `vector_bits` and `vector_registers` size the register tiles of the kernels; `dots` names the
    instruction that sums four products of bytes, "" where there is none. `kernels` is one of KERNEL_SETS, `memory` where
    tensors may be ("host", "device"). `portable` profiles are compiled where nobody says for what.
    Kernels of one op give the same bits on every profile with the kernel sets "vector" and "scalar".
    """

    name: str
    arch: str
    spec: tuple[tuple[str, object], ...]
    features: frozenset[str]
    vector_bits: int
    vector_registers: int
    dots: str = ""
    kernels: str = VECTOR
    memory: tuple[str, ...] = ("host",)
    portable: bool = False

    @property
    def kind(self) -> str:
        """The kind of the TVM target: "llvm", "c", "cuda", "webgpu"."""
        return str(dict(self.spec)["kind"])

    def tvm_target(self) -> Target:
        """The TVM target. Never the host's detected CPU name: virtual machines mask features behind it."""
        return Target(self.tvm_spec())

    def tvm_spec(self) -> dict[str, object]:
        """The TVM target as JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.spec}

    def missing_features(self, available: frozenset[str]) -> list[str]:
        """Required flags that `available` lacks, sorted."""
        return sorted(self.features - available)

    @property
    def wide_registers(self) -> int:
        """Vectors of 16 float32 that the registers hold."""
        return self.vector_registers * self.vector_bits // 512

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The larger the better, of the profiles that a machine can run."""
        return self.kernels == VECTOR, self.vector_bits, len(self.features)


def _x86(name: str, mcpu: str, extra: str, features: frozenset[str], *, wide: bool, dots: str = "") -> TargetProfile:
    spec: tuple[tuple[str, object], ...] = (("kind", "llvm"), ("mcpu", mcpu), ("opt-level", 3))
    spec += (("mattr", (extra,)),) if extra else ()
    return TargetProfile(
        name, "x86_64", spec, features, 512 if wide else 256, 32 if wide else 16, dots=dots, portable=True
    )


def _arm(name: str, *features: str) -> TargetProfile:
    """NEON with `features` in LLVM's spelling."""
    spec = (("kind", "llvm"), ("mtriple", "aarch64-linux-gnu"), ("mattr", tuple(f"+{f}" for f in features)))
    flags = _DOTPROD | ({"i8mm"} if "i8mm" in features else set())
    dots = "usdot" if "i8mm" in features else "sdot"
    return TargetProfile(name, "aarch64", (*spec, ("opt-level", 3)), flags, 128, 32, dots=dots, portable=True)


def _gpu(name: str, arch: str, feature: str, **spec: object) -> TargetProfile:
    """A GPU, with host code for `arch`. Register tiles are small: a thread has one lane."""
    values = tuple((key.rstrip("_"), value) for key, value in spec.items())
    return TargetProfile(name, arch, values, frozenset([feature]), 256, 16, kernels=SIMT, memory=("host", "device"))


def _cuda(chip: str) -> TargetProfile:
    limits = {"max_threads_per_block": 1024, "max_shared_memory_per_block": 48 << 10, "thread_warp_size": 32}
    return _gpu(f"cuda-{chip.replace('_', '')}", architecture(), chip, kind="cuda", arch_=chip, **limits)


PROFILES: dict[str, TargetProfile] = {
    p.name: p
    for p in (
        _x86("x86-64-v3", "x86-64-v3", "", _V3, wide=False),
        _x86("x86-64-v3-vnni", "x86-64-v3", "+avxvnni", _V3 | {"avx_vnni"}, wide=False, dots="vpdpbusd"),
        _x86("x86-64-v4", "x86-64-v4", "", _V4, wide=True),
        _x86("x86-64-v4-vnni", "x86-64-v4", "+avx512vnni", _V4 | {"avx512_vnni"}, wide=True, dots="vpdpbusd"),
        _arm("aarch64-dotprod", "dotprod"),
        _arm("aarch64-i8mm", "dotprod", "i8mm"),
        TargetProfile("c", architecture(), (("kind", "c"),), frozenset(), 256, 16, kernels=SCALAR),
        _cuda("sm_80"),
        _cuda("sm_90"),
        _gpu("webgpu", "wasm32", "webgpu", kind="webgpu", max_num_threads=256, max_shared_memory_per_block=16 << 10),
    )
}


def resolve_target(name: str = "native") -> TargetProfile:
    """The profile called `name`; `native` is the best one with vectors that this CPU can run. `c`, which is slow, has to be named.

    Raises ValueError for an unknown name, and where no profile fits this CPU (with the flags that are missing).
    """
    if name != "native":
        if name not in PROFILES:
            raise ValueError(f"unknown target {name!r}; choose one of: native, portable, {', '.join(PROFILES)}")
        return PROFILES[name]
    mine = [p for p in PROFILES.values() if p.arch == architecture() and p.kernels == VECTOR]
    fitting = [p for p in mine if not p.missing_features(cpu_features())]
    if not fitting:
        lacks = "; ".join(f"{p.name} needs {', '.join(p.missing_features(cpu_features()))}" for p in mine)
        raise ValueError(
            f"no target profile fits this {architecture()} CPU ({lacks or 'no profile for this architecture'})"
        )
    return max(fitting, key=lambda p: p.rank)


def resolve_targets(names: str | Sequence[str]) -> tuple[TargetProfile, ...]:
    """The profiles of one name or several, each once, the best first; `portable` stands for all portable ones of this machine's
    architecture. Raises ValueError as `resolve_target`, and where no name is given.
    """
    given = [names] if isinstance(names, str) else list(names)
    if not given:
        raise ValueError("no target is given; choose native, portable, or profiles by name")
    portable = [p for p in PROFILES.values() if p.arch == architecture() and p.portable]
    found: dict[str, TargetProfile] = {}
    for name in given:
        for profile in portable if name == "portable" else [resolve_target(name)]:
            found[profile.name] = profile
    if not found:
        raise ValueError(f"there is no portable profile for {architecture()}; name the targets")
    return tuple(sorted(found.values(), key=lambda p: p.rank, reverse=True))


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
