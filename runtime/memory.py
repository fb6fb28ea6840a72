"""Memory for weights and pages: mapped or anonymous, on huge pages where the system gives them, refused before it runs out.

Generated kernels read all weights once a step. On 4 kB pages the read rate drops (19 to 28 against 32 GB/s measured with two
threads), so weights are mapped with MADV_HUGEPAGE, and where the file system has no large folios for the file they are
copied once into anonymous huge pages.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import mmap
import os
import re
import time
from pathlib import Path

import numpy as np

from .errors import PoolError
from .features import physical_cores

HUGE_PAGE = 2 << 20
COPY_BELOW = 0.75
"""Share of huge pages under which mapped weights are copied into anonymous memory."""
SMALL = 32 << 20
"""Bytes; weights under this fit the caches and their page tables, so huge pages gain nothing."""

# Values of Linux's madvise and mmap that Python's mmap module does not name everywhere.
_MADV_HUGEPAGE = 14
_MADV_POPULATE_READ = 22
_MADV_POPULATE_WRITE = 23
_MAP_NORESERVE = 0x4000
_COPY_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """How weights are held: `mapped` (page cache, shared between processes) or `copied` (anonymous, private).

    `huge_share` is the part of the bytes on huge pages, `reason` says why the holding was chosen, `seconds` the loading time.
    """

    holding: str
    bytes: int
    huge_share: float
    seconds: float
    reason: str

    def __str__(self) -> str:
        return (
            f"weights {self.holding}: {self.bytes / 1e6:.0f} MB, {self.huge_share:.0%} on huge pages, "
            f"{self.seconds:.2f} s ({self.reason})"
        )


def huge_pages_enabled() -> str:
    """The system's setting of transparent huge pages: `always`, `madvise`, `never`, or `unknown`."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else "unknown"


def huge_share(array: np.ndarray) -> float:
    """Part of the array's bytes that stand on huge pages (FilePmdMapped or AnonHugePages of /proc/self/smaps), 0 to 1."""
    low = array.ctypes.data
    high = low + array.nbytes
    huge, inside = 0, False
    try:
        with open("/proc/self/smaps") as lines:
            for line in lines:
                if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                    inside = int(head[1], 16) < high and int(head[2], 16) > low
                elif inside and line.startswith(("FilePmdMapped:", "AnonHugePages:", "ShmemPmdMapped:")):
                    huge += int(line.split()[1]) << 10
    except OSError:
        return 0.0
    return min(1.0, huge / max(1, array.nbytes))


def available_memory() -> tuple[int, str]:
    """Bytes that this process may still take, and what limits it: the machine or its control group."""
    limit, by = _meminfo("MemAvailable"), "the machine's available memory"
    for folder, ceiling, used, key in _control_groups():
        try:
            text = (folder / ceiling).read_text().strip()
            if text == "max":
                continue
            # Page cache counts as used but is given back under pressure.
            cached = re.search(rf"^{key} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
            left = int(text) - int((folder / used).read_text()) + (int(cached[1]) if cached else 0)
        except (OSError, ValueError):
            continue
        if left < limit:
            limit, by = max(left, 0), f"the memory limit of control group {folder}"
    return limit, by


def _meminfo(field: str) -> int:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) << 10 if found else 1 << 62


def _control_groups() -> list[tuple[Path, str, str, str]]:
    """Folders (own group and its parents) with the file names of limit, usage and reclaimable page cache; versions 2 and 1."""
    groups = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, files = Path("/sys/fs/cgroup"), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, files = (
                Path("/sys/fs/cgroup/memory"),
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        path = root / name.lstrip("/")
        groups += [(folder, *files) for folder in [path, *path.parents] if folder.is_relative_to(root)]
    return groups


def size_text(count: int) -> str:
    """Bytes for people: `1.50 GB`, `12.0 MB`, `32.8 kB`."""
    if count < 1e5:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def allocate(count: int, what: str, *, fix: str = "", reserve: bool = True, prefault: bool = False) -> np.ndarray:
    """`count` zeroed bytes (uint8) of anonymous memory on huge pages, aligned to them.

    Memory is taken when it is first touched, all at once with `prefault`. Before anything is touched, PoolError says how much
    `what` needs and how much there is; `fix` is the advice in it. `reserve=False` skips that and reserves nothing (MAP_NORESERVE):
    for address ranges that stay mostly untouched.
    """
    if reserve:
        left, by = available_memory()
        if count > left:
            raise PoolError(
                f"no memory for {what}: it needs {size_text(count)}, {size_text(left)} is available", by, fix
            )
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (0 if reserve else _MAP_NORESERVE)
    try:
        region = mmap.mmap(-1, max(count, 1) + HUGE_PAGE, flags=flags)
    except (OSError, OverflowError, ValueError) as error:
        left, by = available_memory()
        raise PoolError(
            f"no memory for {what}: it needs {size_text(count)}, {size_text(left)} is available", f"{error}; {by}", fix
        ) from error
    _advise(region, _MADV_HUGEPAGE)
    data = np.frombuffer(region, np.uint8)
    start = -data.ctypes.data % HUGE_PAGE
    if prefault:
        _advise(region, _MADV_POPULATE_WRITE, start, count)
    return data[start : start + count]


def _advise(region: mmap.mmap, advice: int, start: int = 0, count: int | None = None) -> None:
    """madvise where the kernel knows the advice: all of them only change speed."""
    start -= start % mmap.PAGESIZE
    try:
        region.madvise(advice, start, len(region) - start if count is None else min(count, len(region) - start))
    except OSError:
        return


def load_file(path: str | Path, *, huge: bool | None = None) -> tuple[np.ndarray, LoadReport]:
    """The bytes of a file (uint8, whole) in memory, prefaulted, on huge pages where possible, and how they are held.

    The file is mapped privately and writable, as DLPack wants it; nothing is written. `huge=None` copies into anonymous huge
    pages where less than COPY_BELOW of the mapping is on huge pages, `True` always copies, `False` never.
    """
    begin = time.perf_counter()
    path = Path(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        region = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        _advise(region, _MADV_HUGEPAGE)
        _advise(region, _MADV_POPULATE_READ)
        data = np.frombuffer(region, np.uint8)
        share = huge_share(data)
        copy, reason = _holding(size, share, huge)
        if copy:
            del data
            region.close()  # before the copy: the peak is one copy, not the copy and the mapping
            data = _copy(file.fileno(), size, str(path))
            share = huge_share(data)
    return data, LoadReport("copied" if copy else "mapped", size, share, time.perf_counter() - begin, reason)


def _holding(size: int, share: float, huge: bool | None) -> tuple[bool, str]:
    """Whether to copy, and why or why not."""
    if huge is not None:
        return huge, "as asked for"
    if share >= COPY_BELOW:
        return False, "the mapping is on huge pages"
    found = f"the mapping has {share:.0%} on huge pages"
    if size < SMALL:
        return False, f"small enough for 4 kB pages; {found}"
    if huge_pages_enabled() not in ("always", "madvise"):
        return False, f"{found} and this system gives no transparent huge pages"
    if size + HUGE_PAGE > available_memory()[0]:
        return False, f"{found} and there is no memory for a copy"
    return True, found


def _copy(descriptor: int, size: int, what: str) -> np.ndarray:
    """The file in anonymous huge pages, read by several threads; page cache is dropped behind them where memory is tight."""
    data = allocate(size, f"a copy of {what}")
    tight = available_memory()[0] < 2 * size

    def read(start: int) -> None:
        piece = data.data[start : min(start + _COPY_BYTES, size)]
        done = 0
        while done < len(piece):
            got = os.preadv(descriptor, [piece[done:]], start + done)
            if got == 0:
                raise OSError(f"{what} became shorter while it was read")
            done += got
        if tight:
            os.posix_fadvise(descriptor, start, len(piece), os.POSIX_FADV_DONTNEED)

    with concurrent.futures.ThreadPoolExecutor(min(4, len(physical_cores()))) as pool:
        list(pool.map(read, range(0, size, _COPY_BYTES)))
    return data
