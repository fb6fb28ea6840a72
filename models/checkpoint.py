"""Checkpoints on disk: safetensors in one file or in shards, opened by mmap without a copy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ..runtime.errors import TensorFileError
from ..runtime.safetensors import Entry, read_header
from .problems import ModelError, Problem, error, raise_errors
from .weights import TensorInfo

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Checkpoint:
    """Safetensors files as one set of named tensors."""

    def __init__(self, path: Path, files: Mapping[Path, Mapping[str, Entry]]) -> None:
        self.path = path
        self._files = {file: dict(entries) for file, entries in files.items()}
        self._file_of = {name: file for file, entries in self._files.items() for name in entries}
        self._maps: dict[Path, np.ndarray] = {}
        entries = ((name, entry) for entries in files.values() for name, entry in entries.items())
        self.tensors = {name: TensorInfo(entry.dtype, entry.shape) for name, entry in entries}

    def read(self, name: str) -> np.ndarray:
        """A read-only view of one tensor; bfloat16 as ml_dtypes.bfloat16. KeyError where there is no such tensor."""
        file = self._file_of[name]
        if file not in self._maps:
            self._maps[file] = np.asarray(np.memmap(file, np.uint8, mode="r"))
        entry = self._files[file][name]
        array = entry.view(self._maps[file])
        return array.view(ml_dtypes.bfloat16) if entry.dtype == "bfloat16" else array

    def identity(self) -> str:
        """Hex digest of config.json, and of each file's header, size, modification time and inode, not of values."""
        digest = hashlib.sha256()
        config = self.path / "config.json"
        if config.is_file():
            digest.update(config.read_bytes())
        for file, entries in sorted(self._files.items()):
            stat = file.stat()
            digest.update(f"\n{file.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}\n".encode())
            digest.update(repr(sorted(entries.items())).encode())
        return digest.hexdigest()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model directory (or one .safetensors file); only headers are read.

    Raises ModelError, with the problems of all files at once, where files are missing, truncated, corrupt, or disagree.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        return Checkpoint(path.parent, _headers(path, [path]))
    if path.name == "config.json":  # a config.json stands for its directory
        path = path.parent
    if (path / SINGLE).is_file():
        return Checkpoint(path, _headers(path, [path / SINGLE]))
    if (path / INDEX).is_file():
        return _open_shards(path)
    fix = "download them, or compile with random weights: --random-weights SEED"
    raise ModelError(str(path), [error("no weights", _why_no_weights(path), fix)])


def _why_no_weights(path: Path) -> str:
    if not path.is_dir():
        return "the path does not exist"
    others = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".gguf", ".safetensors"))
    why = f"the directory has neither {SINGLE} nor {INDEX}"
    return f"{why}; {', '.join(others[:4])} cannot be read" if others else why


def _headers(path: Path, files: list[Path]) -> dict[Path, dict[str, Entry]]:
    """Headers of all files; their problems are raised together."""
    headers, problems = {}, []
    for file in files:
        try:
            headers[file] = read_header(file)
        except TensorFileError as exception:
            problems.append(error(exception.what, exception.why, exception.fix))
    raise_errors(str(path), problems)
    return headers


def _open_shards(path: Path) -> Checkpoint:
    weight_map = _read_index(path / INDEX)
    names = sorted(set(weight_map.values()))
    problems = [
        error(f'shard "{name}" is missing', f"{INDEX} lists it", "download it again")
        for name in names
        if not (path / name).is_file()
    ]
    raise_errors(str(path), problems)
    headers = _headers(path, [path / name for name in names])
    raise_errors(str(path), _index_problems(weight_map, headers))
    return Checkpoint(path, headers)


def _read_index(file: Path) -> dict[str, str]:
    """The map from tensor to shard. Shards are plain file names: nothing outside the directory is opened."""

    def refuse(why: str) -> ModelError:
        return ModelError(str(file), [error("not an index of safetensors", why, "download the file again")])

    try:
        weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as exception:
        raise refuse(f"{type(exception).__name__}: {exception}") from exception
    if not isinstance(weight_map, dict) or not weight_map:
        raise refuse("its weight_map is no object, or empty")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise refuse(f"{name!r:.80} is not the name of a safetensors file in this directory")
    return weight_map


def _index_problems(weight_map: Mapping[str, str], headers: Mapping[Path, Mapping[str, Entry]]) -> list[Problem]:
    """Tensors in two shards, tensors that the index places elsewhere, and tensors on one side only."""
    problems = []
    fix = "download the checkpoint again"
    homes: dict[str, list[str]] = {}
    for file, entries in headers.items():
        for name in entries:
            homes.setdefault(name, []).append(file.name)
    for name, files in homes.items():
        if len(files) > 1:
            problems.append(error(f'tensor "{name}" is in {len(files)} shards', ", ".join(files), "keep one of them"))
        elif name not in weight_map:
            problems.append(error(f'tensor "{name}" of {files[0]} is not in {INDEX}', "", fix))
        elif weight_map[name] != files[0]:
            why = f"{INDEX} says {weight_map[name]}, it is in {files[0]}"
            problems.append(error(f'tensor "{name}" is in another shard', why, fix))
    for name, shard in weight_map.items():
        if name not in homes:
            problems.append(error(f'tensor "{name}" is missing', f"{INDEX} says that it is in {shard}", fix))
    return problems
