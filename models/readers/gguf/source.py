"""A model in GGUF, the format of llama.cpp: one file, or several that are one model."""

from __future__ import annotations

import collections
import functools
import re
from pathlib import Path

import numpy as np

from ...config import RawConfig
from ...problems import ModelError, Problem, error, raise_errors
from .checkpoint import GgufCheckpoint
from .config import family_of, read_config
from .family import read_sizes
from .files import carried_files
from .header import MAGIC, Header, read_header
from .metadata import Facts
from .types import FLOATS

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_MAX_SHARDS = 9999


class GgufSource:
    """A GGUF file, any file of a split model, or a directory with one model in GGUF."""

    name = "GGUF file"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path if path.is_dir() else path.parent

    def config(self) -> RawConfig:
        """As `ModelSource` says."""
        return read_config(self._facts(), self._dtype(), str(self.path))

    def checkpoint(self) -> GgufCheckpoint:
        """As `ModelSource` says."""
        facts = self._facts()
        family = family_of(facts, str(self.path))
        sizes = read_sizes(facts, facts.integer("embedding_length"))
        raise_errors(str(self.path), facts.problems)
        return GgufCheckpoint(self._headers, family, sizes, str(self.path))

    def files(self) -> dict[str, bytes]:
        """As `ModelSource` says."""
        return carried_files(self._headers[0].metadata)

    @functools.cached_property
    def _headers(self) -> list[Header]:
        return read_headers(_one_model(self.path) if self.path.is_dir() else self.path)

    def _facts(self) -> Facts:
        homes = {name: header for header in self._headers for name in header.tensors}

        def read(name: str) -> np.ndarray:
            entry = homes[name].tensors[name]
            if entry.type not in FLOATS:
                raise ModelError(str(self.path), [error(f"tensor {name} is quantized", "it must be floats")])
            return homes[name].bytes_of(entry).view(np.dtype(FLOATS[entry.type][1])).reshape(entry.shape)

        shapes = {name: header.tensors[name].shape for name, header in homes.items()}
        return Facts(self._headers[0].metadata, shapes, read)

    def _dtype(self) -> str:
        """The type of most matrices; float16, in which their scales are, where these are quantized."""
        kinds = collections.Counter(e.type for h in self._headers for e in h.tensors.values() if len(e.shape) == 2)
        most = max(kinds, key=lambda kind: kinds[kind], default=0)
        return FLOATS[most][0] if most in FLOATS else "float16"


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its name or its first bytes, or a directory with such and without config.json."""
    if path.is_dir():
        return not (path / "config.json").is_file() and any(path.glob("*.gguf"))
    if path.suffix == ".gguf":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def _one_model(directory: Path) -> Path:
    """The only model in GGUF of a directory, one of its files where it is split. ModelError where there are several."""
    files = sorted(file for file in directory.glob("*.gguf") if "mmproj" not in file.name)
    models = {(match[1] if (match := _SHARD.fullmatch(file.name)) else file.name): file for file in reversed(files)}
    if len(models) != 1:
        what = f"the directory holds {len(models)} models in GGUF"
        names = ", ".join(sorted(file.name for file in models.values()))
        raise ModelError(str(directory), [error(what, names, "give the path of the file")])
    return next(iter(models.values()))


def read_headers(path: Path) -> list[Header]:
    """The headers of a file, or of all files of the split model that it is a part of; the first has the metadata.

    Raises one ModelError with the problems of all files.
    """
    if not path.is_file():
        raise ModelError(str(path), [error("not a GGUF file", "the path does not exist", "give a model in GGUF")])
    match = _SHARD.fullmatch(path.name)
    if match is None:
        header = read_header(path)
        count = header.metadata.get("split.count", 1)
        if type(count) is int and count > 1:
            why = f"split.count is {count}, and its name is not of the form NAME-00001-of-{count:05d}.gguf"
            raise ModelError(str(path), [error("the file is a part of a split model", why, "give it its name back")])
        return [header]
    stem, count = match[1], int(match[3])
    if not 1 <= int(match[2]) <= count <= _MAX_SHARDS:
        why = f"its name says part {int(match[2])} of {count}; at most {_MAX_SHARDS} are read"
        raise ModelError(str(path), [error("not a part of a split model", why, "give the file its name back")])
    files = [path.with_name(f"{stem}-{i:05d}-of-{match[3]}.gguf") for i in range(1, count + 1)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        why = f"{path.name} is one of {count} parts"
        raise ModelError(str(path), [error(f"{len(missing)} parts are missing: {shown}", why, "download them")])
    headers: list[Header] = []
    problems: list[Problem] = []
    for file in files:
        try:
            headers.append(read_header(file))
        except ModelError as exception:
            problems += exception.problems
    raise_errors(str(path), problems)
    raise_errors(str(path), _split_problems(headers))
    return headers


def _split_problems(headers: list[Header]) -> list[Problem]:
    """Parts of different models, tensors that stand twice or are in none."""
    problems: list[Problem] = []
    fix = "download the parts again"
    for number, header in enumerate(headers):
        said = header.metadata.get("split.no"), header.metadata.get("split.count")
        if said != (number, len(headers)):
            what = f"{header.path.name} says that it is part {said[0]} of {said[1]}, counted from 0"
            problems.append(error(what, f"it should be {number} of {len(headers)}", fix))
    counts = collections.Counter(name for header in headers for name in header.tensors)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        problems.append(error(f'tensor "{twice[0]}" is in {counts[twice[0]]} parts', "each must be in one", fix))
    total = headers[0].metadata.get("split.tensors.count", len(counts))
    if total != len(counts):
        problems.append(error(f"the parts hold {len(counts)} tensors", f"split.tensors.count is {total!r:.40}", fix))
    return problems
