"""The manifest of a compiled torch module: what it takes and gives, and what it needs. Read as strictly as a model's."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from .errors import ManifestError
from .json_schema import decode, read_json
from .manifest import MODULE, FileInfo, TargetInfo, WeightsInfo, check_paths

FORMAT_VERSION = 2
FUNCTION = "main"
RETURNS = ("tensor", "tuple", "dict")


@dataclasses.dataclass(frozen=True)
class ArrayInfo:
    """An argument or a result. Extents are numbers, names of dimensions, or expressions of these (`2*batch`)."""

    name: str
    dtype: str
    shape: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class DimInfo:
    """Bounds of a dimension; `most` is null where there is none."""

    least: int
    most: Any


@dataclasses.dataclass(frozen=True)
class ModuleManifest:
    """All that is known about a compiled module.

    `returns` says how the outputs are handed over: one array, a tuple, or a dict by name. `schemes` has the quantization
    scheme of every linear, "none" where its weight stays as it is. `difference` is max|a - b| / max|b| of the outputs
    against torch's on the example arguments, the worst of all outputs.
    """

    format_version: int
    kind: str
    heddle_version: str
    tvm_version: str
    ffi_version: str
    target: TargetInfo
    source: str
    inputs: tuple[ArrayInfo, ...]
    outputs: tuple[ArrayInfo, ...]
    returns: str
    dims: dict[str, DimInfo]
    schemes: dict[str, str]
    params: tuple[str, ...]
    weights: WeightsInfo
    difference: float
    files: dict[str, FileInfo]
    compile_seconds: dict[str, float]

    def to_json(self) -> str:
        """The manifest as JSON text, fields in the order of the schema."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModuleManifest:
        """Read and check a manifest; ManifestError names the first field that disagrees with the schema."""
        raw = read_json(text)
        if raw.get("kind") != MODULE:
            raise ManifestError(
                "the artifact holds a language model, not a torch module", fix="open it with heddle.LLM or heddle.load"
            )
        if raw.get("format_version") != FORMAT_VERSION:
            raise ManifestError(
                f"manifest.format_version is {raw.get('format_version')!r}, this Heddle reads {FORMAT_VERSION}",
                "the artifact was written by another version of Heddle",
                "compile the module again",
            )
        manifest: ModuleManifest = decode(cls, raw, "manifest")
        for name in manifest.params:
            if name not in manifest.weights.tensors:
                raise ManifestError(f"manifest.params names {name!r}, which manifest.weights.tensors lacks")
        for field, file in (("weights.file", manifest.weights.file), ("target.library", manifest.target.library)):
            if file not in manifest.files:
                raise ManifestError(f"manifest.{field} needs {file!r}, which manifest.files lacks")
        if manifest.target.weights != manifest.weights.file:
            raise ManifestError(
                f"manifest.target.weights is {manifest.target.weights!r}, manifest.weights.file {manifest.weights.file!r}"
            )
        check_paths(manifest.files)
        if manifest.returns not in RETURNS:
            raise ManifestError(f"manifest.returns is {manifest.returns!r}; known are {', '.join(RETURNS)}")
        return manifest
