"""What a path holds: a model in one of the formats that people keep models in, behind one interface."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from .checkpoint import INDEX, WEIGHT_SUFFIXES, open_checkpoint
from .config import RawConfig, load_config
from .downloads import stand_ins
from .pooling import pooling_files
from .problems import Problem, raise_errors
from .readers import mlc
from .readers.gguf import GgufSource, is_gguf
from .readers.methods import open_quantized, quantization_config
from .tokenization import TOKENIZER_FILES, directory_tokenizer
from .weights import TensorSource

CARRIED_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""The small files beside config.json and the weights that an artifact carries."""


class ModelSource(Protocol):
    """A model on disk. Each part is read when it is asked for, so that the problems of one do not hide those of another."""

    @property
    def name(self) -> str:
        """What kind of thing this is: `Hugging Face directory`, `GGUF file`, ..."""

    @property
    def path(self) -> Path:
        """The directory or file."""

    @property
    def directory(self) -> Path:
        """The directory, or that of the file."""

    def config(self) -> RawConfig:
        """The configuration in the form of Hugging Face's config.json. ModelError where it cannot be had."""

    def checkpoint(self) -> TensorSource:
        """The weights, under the names that Hugging Face's implementation gives them. ModelError with all problems."""

    def files(self) -> dict[str, bytes]:
        """The files of CARRIED_FILES that there are, by name, and `pooling_files`. ModelError where one cannot be made."""


@runtime_checkable
class Verifiable(Protocol):
    """A format that has checksums."""

    def verify(self) -> list[Problem]:
        """Files whose content is not what it was; reads all of them."""


class HuggingFaceDirectory:
    """A directory with config.json and weights; one of these files stands for it.

    Where the weights are quantized, `quantization_config` says how; the config that is given is that of the floats.
    """

    name = "Hugging Face directory"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path if path.is_dir() else path.parent

    def config(self) -> RawConfig:
        """As `ModelSource` says."""
        weights = self.path.suffix in WEIGHT_SUFFIXES or self.path.name.endswith(INDEX)
        raw = load_config(self.directory if self.path.is_file() and weights else self.path)
        return {key: value for key, value in raw.items() if key not in ("quantization_config", "compression_config")}

    def checkpoint(self) -> TensorSource:
        """As `ModelSource` says."""
        base = open_checkpoint(self.path)
        if not (self.directory / "config.json").is_file():
            return base
        raw = load_config(self.directory)
        config = quantization_config(raw, self.directory)
        if config is None:
            return base
        dtype = raw.get("dtype") or raw.get("torch_dtype")
        return open_quantized(config, base, dtype=str(dtype or "bfloat16"), subject=str(self.directory))

    def files(self) -> dict[str, bytes]:
        """As `ModelSource` says."""
        return carried_files(self.directory)


class MlcDirectory:
    """A directory that MLC LLM has converted; its mlc-chat-config.json stands for it."""

    name = "MLC directory"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path if path.is_dir() else path.parent

    def config(self) -> RawConfig:
        """As `ModelSource` says."""
        return mlc.read_config(self.directory)

    def checkpoint(self) -> TensorSource:
        """As `ModelSource` says."""
        return mlc.open_mlc(self.directory)

    def files(self) -> dict[str, bytes]:
        """As `ModelSource` says."""
        return carried_files(self.directory)

    def verify(self) -> list[Problem]:
        """Shards whose md5 sums are not those of the list."""
        return mlc.verify(self.directory)


def carried_files(directory: Path) -> dict[str, bytes]:
    """The small files of a directory that an artifact carries. ModelError names those that are not what they are called."""
    raise_errors(str(directory), stand_ins(directory / name for name in (*CARRIED_FILES[:-1], *TOKENIZER_FILES)))
    found = {name: directory / name for name in CARRIED_FILES}
    carried = {name: file.read_bytes() for name, file in found.items() if file.is_file()}
    return carried | directory_tokenizer(directory) | pooling_files(directory)


def open_source(path: str | Path) -> ModelSource:
    """The model at `path`; nothing of it is read yet."""
    path = Path(path)
    if mlc.is_mlc(path) and not (path / "config.json").is_file():
        return MlcDirectory(path)
    return GgufSource(path) if is_gguf(path) else HuggingFaceDirectory(path)
