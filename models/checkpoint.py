"""Checkpoints on disk: safetensors or PyTorch files, one or in shards, opened by mmap without a copy."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ..runtime.errors import TensorFileError
from ..runtime.safetensors import Entry, read_header
from .downloads import stand_in, unfinished
from .problems import ModelError, Problem, error, raise_errors
from .quant_tensor import QuantTensor
from .readers.torch_file import read_torch
from .weights import TensorInfo

INDEX = ".index.json"
"""What follows the name of a single file in that of an index of shards."""

Reader = Callable[[Path], Mapping[str, Entry]]
FORMATS: Mapping[str, Reader] = {"model.safetensors": read_header, "pytorch_model.bin": read_torch}
"""Names of single files, the preferred first, and how they are read."""

WEIGHT_SUFFIXES = {Path(name).suffix: reader for name, reader in FORMATS.items()} | {
    ".pt": read_torch,
    ".pth": read_torch,
}
"""Suffixes of files of weights, and how they are read."""

_WEIGHTS = (*WEIGHT_SUFFIXES, ".gguf", ".h5", ".msgpack", ".onnx")
_NUMBERED = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\.safetensors|\.bin)")


class Checkpoint:
    """Files as one set of named tensors."""

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
        return array.view(getattr(ml_dtypes, entry.dtype)) if hasattr(ml_dtypes, entry.dtype) else array

    def read_quantized(self, name: str) -> QuantTensor:
        """None of these tensors is quantized: files know none, readers of quantized models stand before this."""
        raise KeyError(name)

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
    """Open a model directory (or one file of weights); only headers are read.

    A directory has one file (`model.safetensors`, `pytorch_model.bin`), or shards, which an index or their numbers
    (`NAME-00001-of-00002.safetensors`) make one. Raises ModelError, with the problems of all files at once, where files are
    missing, truncated, corrupt, unsafe to read, or disagree.
    """
    path = Path(path)
    if path.is_file() and path.suffix in WEIGHT_SUFFIXES:
        return Checkpoint(path.parent, _headers(path, [path]))
    if path.is_file() and path.suffix == ".json":  # the config, or an index, stands for its directory
        path = path.parent
    for single in FORMATS:
        if (path / single).is_file():
            return Checkpoint(path, _headers(path, [path / single]))
        if (path / (single + INDEX)).is_file():
            return _open_shards(path, path / (single + INDEX))
    shards = _numbered(path)
    if shards:
        return _without_index(path, shards)
    raise ModelError(str(path), [_no_weights(path)])


def _no_weights(path: Path) -> Problem:
    fix = "download them, or compile with random weights: --random-weights SEED"
    if not path.is_dir():
        return error("no weights", "the path does not exist", fix)
    why = f"the directory has neither {' nor '.join(FORMATS)}, nor an index of either"
    others = sorted(p.name for p in path.iterdir() if p.suffix in _WEIGHTS)
    if (path / "manifest.json").is_file():
        why = "manifest.json says that it may be a compiled artifact already"
        fix = "give it to `heddle run`, `chat`, `serve` or `inspect` as it is"
    elif broken := unfinished(path):
        why += f"; not downloaded to the end, or links to nothing: {', '.join(broken[:4])}"
    elif others:
        why += f"; there are {', '.join(others[:4])}"
        if any(name.endswith((".gguf", *WEIGHT_SUFFIXES)) for name in others):
            fix = "give the path of one of these files instead of the directory"
    return error("no weights", why, fix)


def _numbered(path: Path) -> list[Path]:
    """Shards that are numbered and have no index, safetensors before others."""
    if not path.is_dir():
        return []
    found = [file for file in sorted(path.iterdir()) if _NUMBERED.fullmatch(file.name)]
    suffix = ".safetensors" if any(file.suffix == ".safetensors" for file in found) else ".bin"
    return [file for file in found if file.suffix == suffix]


def _without_index(path: Path, shards: list[Path]) -> Checkpoint:
    """Numbered shards, which must be all of one set."""
    sets: dict[tuple[str, ...], set[int]] = {}
    for shard in shards:
        name, number, count, suffix = _NUMBERED.fullmatch(shard.name).groups()  # type: ignore[union-attr]
        sets.setdefault((name, count, suffix), set()).add(int(number))
    if len(sets) > 1:
        names = ", ".join(f"{name}*-of-{count}{suffix}" for name, count, suffix in sets)
        raise ModelError(str(path), [error("several sets of shards", names, "keep one of them, or add its index")])
    (((name, count, suffix), have),) = sets.items()
    missing = sorted({*range(1, int(count) + 1)} - have)
    problems = [error(f'shard "{name}{i:05d}-of-{count}{suffix}" is missing', "", "download it") for i in missing[:10]]
    if len(missing) > 10:
        problems.append(error(f"{len(missing) - 10} more shards are missing", "", "download them"))
    raise_errors(str(path), problems)
    headers = _headers(path, shards)
    raise_errors(str(path), _twice(headers))
    return Checkpoint(path, headers)


def _headers(path: Path, files: list[Path]) -> dict[Path, Mapping[str, Entry]]:
    """Headers of all files; their problems are raised together."""
    headers: dict[Path, Mapping[str, Entry]] = {}
    problems = []
    for file in files:
        if missing := stand_in(file):
            problems.append(missing)
            continue
        try:
            headers[file] = WEIGHT_SUFFIXES[file.suffix](file)
        except TensorFileError as exception:
            problems.append(error(exception.what, exception.why, exception.fix))
    raise_errors(str(path), problems)
    return headers


def _open_shards(path: Path, index: Path) -> Checkpoint:
    weight_map = _read_index(index)
    names = sorted(set(weight_map.values()))
    problems = [
        error(f'shard "{name}" is missing', f"{index.name} lists it", "download it again")
        for name in names
        if not (path / name).is_file()
    ]
    raise_errors(str(path), problems)
    headers = _headers(path, [path / name for name in names])
    raise_errors(str(path), _twice(headers) + _index_problems(index.name, weight_map, headers))
    return Checkpoint(path, headers)


def _read_index(file: Path) -> dict[str, str]:
    """The map from tensor to shard. Shards are plain file names: nothing outside the directory is opened."""
    suffix = Path(file.name.removesuffix(INDEX)).suffix

    def refuse(why: str) -> ModelError:
        return ModelError(str(file), [error(f"not an index of {suffix[1:]} files", why, "download the file again")])

    try:
        weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as exception:
        raise refuse(f"{type(exception).__name__}: {exception}") from exception
    if not isinstance(weight_map, dict) or not weight_map:
        raise refuse("its weight_map is no object, or empty")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(suffix):
            raise refuse(f"{name!r:.80} is not the name of a {suffix} file in this directory")
    return weight_map


def _twice(headers: Mapping[Path, Mapping[str, Entry]]) -> list[Problem]:
    """Tensors in several shards."""
    homes: dict[str, list[str]] = {}
    for file, entries in headers.items():
        for name in entries:
            homes.setdefault(name, []).append(file.name)
    return [
        error(f'tensor "{name}" is in {len(files)} shards', ", ".join(files), "keep one of them")
        for name, files in homes.items()
        if len(files) > 1
    ]


def _index_problems(
    index: str, weight_map: Mapping[str, str], headers: Mapping[Path, Mapping[str, Entry]]
) -> list[Problem]:
    """Tensors that the index places elsewhere, and tensors on one side only."""
    problems = []
    fix = "download the checkpoint again"
    homes = {name: file.name for file, entries in headers.items() for name in entries}
    for name, home in homes.items():
        if name not in weight_map:
            problems.append(error(f'tensor "{name}" of {home} is not in {index}', "", fix))
        elif not any(name in entries and file.name == weight_map[name] for file, entries in headers.items()):
            why = f"{index} says {weight_map[name]}, it is in {home}"
            problems.append(error(f'tensor "{name}" is in another shard', why, fix))
    for name, shard in weight_map.items():
        if name not in homes:
            problems.append(error(f'tensor "{name}" is missing', f"{index} says that it is in {shard}", fix))
    return problems
