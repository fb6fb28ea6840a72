"""What the CPU at hand can do, read from its flags and never from its name (virtual machines mask features).

The C library knows the flags of the CPU that the process really runs on, emulated ones too, and what of them the operating
system lets it use: cpuid behind glibc's <sys/platform/x86.h> (2.33 and later), hwcaps behind getauxval. Elsewhere /proc/cpuinfo
says.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from pathlib import Path

_ACTIVE = 4
"""Where the registers eax to edx begin that say what is usable, behind the four of what the CPU has."""

# Flags by name as /proc/cpuinfo spells them: the number of the leaf in glibc, the register (eax to edx), the bit.
_X86 = {
    "sse4_2": (0, 2, 20),
    "movbe": (0, 2, 22),
    "popcnt": (0, 2, 23),
    "avx": (0, 2, 28),
    "f16c": (0, 2, 29),
    "fma": (0, 2, 12),
    "bmi1": (1, 1, 3),
    "avx2": (1, 1, 5),
    "bmi2": (1, 1, 8),
    "avx512f": (1, 1, 16),
    "avx512dq": (1, 1, 17),
    "avx512cd": (1, 1, 28),
    "avx512bw": (1, 1, 30),
    "avx512vl": (1, 1, 31),
    "avx512_vnni": (1, 2, 11),
    "avx512_bf16": (6, 0, 5),
    "avx_vnni": (6, 0, 4),
    "amx_tile": (1, 3, 24),
    "amx_int8": (1, 3, 25),
    "amx_bf16": (1, 3, 22),
    "abm": (2, 2, 5),
}
# The number of the auxiliary vector's entry (AT_HWCAP, AT_HWCAP2), the bit.
_ARM = {
    "fp": (16, 0),
    "asimd": (16, 1),
    "atomics": (16, 8),
    "fphp": (16, 9),
    "asimdhp": (16, 10),
    "asimddp": (16, 20),
    "sve": (16, 22),
    "sve2": (26, 1),
    "i8mm": (26, 13),
    "bf16": (26, 14),
}


@functools.cache
def cpu_features() -> frozenset[str]:
    """Feature flags in the spelling of Linux's /proc/cpuinfo (`avx2`, `avx512f`, `avx512_vnni`, `asimd`, ...)."""
    try:
        found = {"x86_64": _cpuid_flags, "aarch64": _hwcap_flags}[architecture()]()
    except (KeyError, OSError, AttributeError):  # another architecture, system or C library
        return _cpuinfo_flags()
    return found


def _cpuid_flags() -> frozenset[str]:
    leaf = ctypes.CDLL(None)["__x86_get_cpuid_feature_leaf"]
    leaf.restype, leaf.argtypes = ctypes.POINTER(ctypes.c_uint32), [ctypes.c_uint]
    return frozenset(
        name for name, (number, register, bit) in _X86.items() if leaf(number)[_ACTIVE + register] >> bit & 1
    )


def _hwcap_flags() -> frozenset[str]:
    getauxval = ctypes.CDLL(None)["getauxval"]
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return frozenset(name for name, (entry, bit) in _ARM.items() if getauxval(entry) >> bit & 1)


def _cpuinfo_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


@functools.cache
def physical_cores() -> tuple[int, ...]:
    """One logical CPU number per physical core that this process may run on, ascending."""
    seen: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings = path.read_text().strip()
        except OSError:
            siblings = str(cpu)
        seen.setdefault(siblings, cpu)
    return tuple(seen.values())


def architecture() -> str:
    """`x86_64`, `aarch64`, ..."""
    return platform.machine()
