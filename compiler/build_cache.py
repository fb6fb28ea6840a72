"""The build cache: artifacts by what they were made of, so that a second compilation is instant."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from .. import __version__
from ..runtime.artifact import check_files, is_artifact, read_manifest
from ..runtime.errors import ArtifactError, HeddleError
from ..runtime.manifest import FORMAT_VERSION
from ..runtime.tvm import ffi_version, tvm_version

DEFAULT_LIMIT = 50_000_000_000
SUFFIX = ".heddle"
SCRATCH = ".tmp-"
"""Stands behind the key in the name of a scratch folder of native programs."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An artifact in the cache; `used` is the time of its last use in seconds since the epoch."""

    key: str
    path: Path
    architecture: str
    bytes: int
    used: float


def cache_directory() -> Path:
    """$HEDDLE_CACHE, else $XDG_CACHE_HOME/heddle, else ~/.cache/heddle."""
    if own := os.environ.get("HEDDLE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heddle"


def size_limit() -> int:
    """Bytes that the cache may hold: $HEDDLE_CACHE_LIMIT, else 50 GB."""
    text = os.environ.get("HEDDLE_CACHE_LIMIT")
    if text is None:
        return DEFAULT_LIMIT
    if not text.isdecimal():
        raise HeddleError(
            f"HEDDLE_CACHE_LIMIT={text!r} is not a number of bytes", fix="unset it, or give bytes: 50000000000"
        )
    return int(text)


def cache_key(identity: str, options: Mapping[str, object]) -> str:
    """The key of a compilation: checkpoint, options, and every version that changes the result."""
    versions = [__version__, _code_digest(), FORMAT_VERSION, tvm_version(), ffi_version()]
    text = json.dumps([versions, identity, options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@functools.cache
def _code_digest() -> str:
    """Digest of the sources that make artifacts: who edits a kernel must not be given what the old one made (3 ms)."""
    digest = hashlib.sha256()
    for package in ("compiler", "ir_passes", "models", "schedules", "runtime.plans"):
        spec = importlib.util.find_spec(f"{__package__.partition('.')[0]}.{package}")
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package} {file.relative_to(folder)} ".encode() + file.read_bytes())
    return digest.hexdigest()


def lookup(key: str) -> Path | None:
    """The artifact of a key, marked as used now; None where there is none, or a damaged one."""
    path = cache_directory() / f"{key}{SUFFIX}"
    if not is_artifact(path):
        return None
    try:
        check_files(path, read_manifest(path))
    except (ArtifactError, FileNotFoundError):  # built anew; it may also have been cleared just now
        return None
    with contextlib.suppress(PermissionError):  # a cache that is shared read-only
        os.utime(path)
    return path


def find_or_build(key: str, build: Callable[[Path], Path], *, rebuild: bool = False) -> Path:
    """The artifact of a key, built into the cache where it is not there yet, or in any case with `rebuild`.

    Several processes that ask for it at once build it once. Then others are evicted over the limit. Raises HeddleError
    where the cache cannot be written.
    """
    found = None if rebuild else lookup(key)
    if found is not None:
        return found
    size_limit()  # a bad limit is an error before the work, not after it
    directory = cache_directory()
    path = directory / f"{key}{SUFFIX}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = lock(directory, key)
    except OSError as error:
        raise HeddleError(
            f"the build cache {directory} cannot be written", str(error), "set HEDDLE_CACHE to a folder that can"
        ) from error
    with held:
        if rebuild or lookup(key) is None:
            if not is_artifact(path):
                shutil.rmtree(path, ignore_errors=True)
            build(path)
            os.utime(path)
    evict(keep=key)
    return path


def entries() -> list[Entry]:
    """Everything in the cache, most recently used first."""
    found = []
    directory = cache_directory()
    for path in directory.glob(f"*{SUFFIX}") if directory.is_dir() else ():
        if not is_artifact(path):
            continue
        try:
            name = read_manifest(path).model.architecture
        except HeddleError:
            name = "(damaged, or of another version)"
        except FileNotFoundError:  # cleared by another process just now
            continue
        with contextlib.suppress(FileNotFoundError):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found.append(Entry(path.name.removesuffix(SUFFIX), path, name, size, path.stat().st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def evict(keep: str | None = None) -> list[Entry]:
    """Remove the least recently used entries until the cache is within its limit; `keep` stays whatever its size."""
    limit, total, removed = size_limit(), 0, []
    _remove_leftovers()
    for entry in entries():
        total += entry.bytes
        if total > limit and entry.key != keep:
            shutil.rmtree(entry.path, ignore_errors=True)
            total -= entry.bytes
            removed.append(entry)
    return removed


def clear(older_than: float = 0.0) -> list[Entry]:
    """Remove every entry that was last used more than `older_than` seconds ago; returns what was removed.

    Native programs, and what was fetched to build them, go likewise, unless they are being made just now.
    """
    now = time.time()
    _remove_leftovers()
    removed = [entry for entry in entries() if now - entry.used >= older_than]
    for entry in removed:
        shutil.rmtree(entry.path, ignore_errors=True)
    native = cache_directory() / "native"
    for folder in [path for path in native.iterdir() if path.is_dir()] if native.is_dir() else ():
        key = folder.name.partition(SCRATCH)[0]
        with contextlib.suppress(FileNotFoundError, BlockingIOError), lock(native, key, fcntl.LOCK_NB):
            if now - folder.stat().st_mtime >= older_than:
                shutil.rmtree(folder, ignore_errors=True)
    return removed


def _remove_leftovers() -> None:
    """Remove what killed processes left: scratch directories whose key nobody holds the lock of."""
    directory = cache_directory()
    for path in directory.glob(f".*{SUFFIX}.tmp-*") if directory.is_dir() else ():
        key = path.name[1:].partition(SUFFIX)[0]
        with contextlib.suppress(BlockingIOError), lock(directory, key, fcntl.LOCK_NB):
            shutil.rmtree(path, ignore_errors=True)


def lock(directory: Path, key: str, flags: int = 0) -> TextIO:
    """The lock of a key, held until the file is closed."""
    file = (directory / f".{key}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | flags)
    except BaseException:
        file.close()
        raise
    return file
