"""Writing an artifact so that there is a whole one or none, whatever interrupts it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from ..runtime.errors import ArtifactError
from ..runtime.manifest import MANIFEST_FILE, FileInfo, Manifest
from ..runtime.module_manifest import ModuleManifest
from ..runtime.safetensors import WRITE_BYTES, chunks, layout, write_all

TensorSpec = tuple[str, str, tuple[int, ...]]
M = TypeVar("M", Manifest, ModuleManifest)


class ArtifactWriter:
    """A context in which the files of an artifact are written; `finish` puts it in place by one rename.

    Until then everything is in a hidden sibling directory, which is removed if the context ends in an exception or without
    `finish`. An artifact that stood at the destination stays untouched until the new one replaces it.
    """

    def __init__(self, destination: str | Path) -> None:
        self.destination = Path(destination).absolute()
        self._scratch = self.destination.parent / f".{self.destination.name}.tmp-{os.getpid()}"
        self._retired = self._scratch.with_name(f"{self._scratch.name}-old")
        self._files: dict[str, FileInfo] = {}
        if self.destination.exists() and not (self.destination / MANIFEST_FILE).is_file():
            empty = self.destination.is_dir() and not any(self.destination.iterdir())
            if not empty:
                raise ArtifactError(
                    f"{self.destination} exists and is not an artifact",
                    "it will not be overwritten",
                    "choose another output",
                )

    def __enter__(self) -> ArtifactWriter:
        shutil.rmtree(self._scratch, ignore_errors=True)
        try:
            self._scratch.mkdir(parents=True)
        except OSError as error:
            raise ArtifactError(f"{self.destination} cannot be written", str(error), "choose another output") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)  # gone already if it was moved into place
        if self._retired.exists() and not self.destination.exists():  # interrupted between the two renames
            self._retired.rename(self.destination)
        shutil.rmtree(self._retired, ignore_errors=True)
        if isinstance(value, OSError):
            raise ArtifactError(
                f"the artifact {self.destination} could not be written",
                str(value),
                "free space or choose another output; nothing was left behind and an older artifact is as it was",
            ) from value

    @property
    def folder(self) -> Path:
        """Where the files are until `finish`, to try what was written."""
        return self._scratch

    def write_text(self, name: str, text: str) -> None:
        """A text file at the relative path `name`."""
        self._write(name, [text.encode()])

    def write_bytes(self, name: str, data: bytes) -> None:
        """A file of these bytes at the relative path `name`."""
        self._write(name, [data])

    def copy(self, name: str, source: str | Path) -> None:
        """A copy of a file at the relative path `name`."""
        with Path(source).open("rb") as file:
            self._write(name, iter(lambda: file.read(WRITE_BYTES), b""))

    def write_weights(
        self,
        name: str,
        specs: list[TensorSpec],
        produce: Callable[[str], np.ndarray],
        progress: Callable[[int, int], None] | None = None,
    ) -> str:
        """An aligned safetensors file of `specs` (name, dtype, shape); `produce` is asked for one tensor at a time.

        Returns its relative path: `name`, or where that is taken a name with the digest of its content.
        """
        header, entries = layout(specs)
        total = len(header) + sum(entry.bytes for entry in entries.values())
        done = 0

        def pieces() -> Iterator[memoryview]:
            nonlocal done
            for _, piece in chunks(specs, produce):
                yield piece
                done += len(piece)
                if progress:
                    progress(done, total)

        taken = name in self._files
        place = f"{name}.second" if taken else name
        self._write(place, pieces())
        if taken:
            info, file = self._files.pop(place), Path(name)
            place = str(file.with_name(f"{file.stem}-{info.sha256[:12]}{file.suffix}"))
            (self._scratch / f"{name}.second").rename(self._scratch / place)
            self._files[place] = info
        return place

    def finish(self, manifest: M) -> M:
        """Write the manifest (its list of files is filled in) last, and move the artifact into place."""
        # Sorted: files are written by several threads, and one compilation must look like another.
        complete = dataclasses.replace(manifest, files=dict(sorted(self._files.items())))
        text = complete.to_json()
        type(manifest).from_json(text)  # what was written must be what can be read
        self._write(MANIFEST_FILE, [text.encode()])
        _sync_directory(self._scratch)
        if self.destination.exists():
            self.destination.rename(self._retired)
        self._scratch.rename(self.destination)
        _sync_directory(self.destination.parent)
        return complete

    def _write(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        path = self._scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with path.open("wb", buffering=0) as file:
            for piece in pieces:
                view = memoryview(piece)
                write_all(file.write, view)
                digest.update(view)
                size += len(view)
            os.fsync(file.fileno())
        if name != MANIFEST_FILE:
            self._files[name] = FileInfo(digest.hexdigest(), size)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
