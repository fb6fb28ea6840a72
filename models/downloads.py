"""Files that look as if they were there and are not: what a download that went wrong leaves behind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .problems import Problem, error

_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
_UNFINISHED = (".part", ".incomplete", ".crdownload", ".aria2", ".tmp")


def stand_in(path: Path) -> Problem | None:
    """What stands in for the file at `path`: a pointer of Git LFS, a web page, nothing. None where it may be the file itself."""
    with path.open("rb") as file:
        begin = file.read(64)
    size = path.stat().st_size
    if not size:
        return error(f"{path} is empty", "it has 0 bytes", "download it again")
    if begin.startswith(_POINTER):
        why = f"its {size} bytes say where Git LFS keeps the file"
        return error(f"{path} is a pointer, not the file", why, "run `git lfs pull` in its directory, or download it")
    if begin.lower().lstrip().startswith(_PAGES):
        return error(f"{path} is a web page", "it begins with a tag of HTML or XML", "download the file itself")
    return None


def stand_ins(paths: Iterable[Path]) -> list[Problem]:
    """The problems of all files that are there."""
    found = (stand_in(path) for path in paths if path.is_file())
    return [problem for problem in found if problem is not None]


def unfinished(directory: Path) -> list[str]:
    """Names of files in `directory` that a download has not finished, or that are links to nothing."""
    return sorted(
        entry.name
        for entry in directory.iterdir()
        if entry.suffix in _UNFINISHED or (entry.is_symlink() and not entry.exists())
    )
