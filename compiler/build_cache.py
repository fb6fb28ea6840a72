"""The build cache: artifacts by what they were made of, so that a second compilation is instant."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .. import __version__
from ..runtime.artifact import is_artifact
from ..runtime.errors import HeddleError
from ..runtime.manifest import FORMAT_VERSION, Manifest
from ..runtime.tvm import ffi_version, tvm_version

DEFAULT_LIMIT = 50_000_000_000
SUFFIX = ".heddle"


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
    versions = [__version__, FORMAT_VERSION, tvm_version(), ffi_version()]
    text = json.dumps([versions, identity, options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def lookup(key: str) -> Path | None:
    """The artifact of a key, marked as used now; None where there is none."""
    path = cache_directory() / f"{key}{SUFFIX}"
    if not is_artifact(path):
        return None
    os.utime(path)
    return path


def store(key: str, build: Callable[[Path], Path]) -> Path:
    """Build the artifact of a key into the cache, once even if several processes ask, and evict others over the limit."""
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / f".{key}.lock"):
        path = directory / f"{key}{SUFFIX}"
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
            manifest = Manifest.from_json((path / "manifest.json").read_text(encoding="utf-8"))
            name = manifest.model.architecture
        except HeddleError:
            name = "(written by another version)"
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        found.append(Entry(path.name.removesuffix(SUFFIX), path, name, size, path.stat().st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def evict(keep: str | None = None) -> list[Entry]:
    """Remove the least recently used entries until the cache is within its limit; `keep` stays whatever its size."""
    limit, total, removed = size_limit(), 0, []
    for entry in entries():
        total += entry.bytes
        if total > limit and entry.key != keep:
            shutil.rmtree(entry.path, ignore_errors=True)
            total -= entry.bytes
            removed.append(entry)
    return removed


def clear(older_than: float = 0.0) -> list[Entry]:
    """Remove every entry that was last used more than `older_than` seconds ago; returns what was removed."""
    now = time.time()
    removed = [entry for entry in entries() if now - entry.used >= older_than]
    for entry in removed:
        shutil.rmtree(entry.path, ignore_errors=True)
    return removed


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
