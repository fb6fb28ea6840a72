"""What the CPU at hand can do, read from its flags and never from its name (virtual machines mask features)."""

from __future__ import annotations

import functools
import platform
from pathlib import Path


@functools.cache
def cpu_features() -> frozenset[str]:
    """Feature flags in the spelling of Linux's /proc/cpuinfo (`avx2`, `avx512f`, `avx512_vnni`, `asimd`, ...)."""
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
    import os

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
