"""The schema of an artifact's manifest.json: what the compiler promises and the runtime relies on.

The classes are the schema. Reading is strict: an unknown, missing or mistyped field is an error that names the field by its
path (`functions[1].instances[0].max_rows`). A change of meaning raises FORMAT_VERSION; there is no reading of other versions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from .errors import ManifestError
from .json_schema import decode, read_json
from .plans import PlanLayout
from .plans.layout import ARRAYS

FORMAT_VERSION = 7
MANIFEST_FILE = "manifest.json"
PLAN_FUNCTION = "plan"  # the kernel of the library that builds plans
SAMPLE_FUNCTION, RANK_FUNCTION = "sample_tokens", "rank_tokens"  # these and the next: the sampler's kernels
EDIT_FUNCTION, MASK_FUNCTION = "edit_logits", "mask_logits"
LIBRARY_FILE = "lib.so"  # of a compiled torch module; a model has a library for each target
MODULE = "module"  # `kind` in the manifest of a compiled torch module (module_manifest.py); a model has no such field
POOLING_FILE = "pooling.safetensors"  # the layers behind the pooling of embeddings, where there are any
DECODER, ENCODER = KINDS = ("decoder", "encoder")
POOLINGS = ("mean", "cls", "last")
ACTIVATIONS = ("none", "tanh")
"""Of a layer behind the pooling."""

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8, "uint16": 2, "int8": 1, "uint8": 1}
"""Bytes per element of the tensor types that may stand in a manifest."""


@dataclasses.dataclass(frozen=True)
class TargetInfo:
    """A library and what it was compiled for.

    `features` are flags (spelled as in /proc/cpuinfo) that the CPU must have, `tvm` is the TVM target, `library` the file with
    the code, `weights` that with the weights in the layout that it reads.
    """

    name: str
    arch: str
    features: tuple[str, ...]
    tvm: dict[str, Any]
    library: str
    weights: str


@dataclasses.dataclass(frozen=True)
class QuantizedSite:
    """A weight that the checkpoint had quantized already: by the format `label`, whose codes the artifact has where `kept`.

    `holds` names the weight format that has room for these codes, `suggests` one to quantize to instead, empty where none is.
    """

    label: str
    holds: str
    suggests: str
    kept: bool

    def became(self, scheme: str, stored: str) -> str:
        """What became of it, for people; `stored` is the type of weights without a scheme ("none")."""
        if self.kept:
            return f"{scheme} (the codes of {self.label})"
        return f"{stored} (dequantized {self.label})" if scheme == "none" else f"{scheme} (anew from {self.label})"


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Shape of the model; `config` is the checkpoint's config.json as it was.

    A "decoder" has logits, and a row sees what is before it. An "encoder" has hidden states alone, and every row sees its
    whole sequence, which is therefore served in one step: `functions` lacks `head`, and all layers share one layer's cache.
    `schemes` names the quantization scheme of every site (`layers.0.mlp.down`), "none" where it has `weight_dtype`.
    `quantized` has the sites that the checkpoint had quantized.
    """

    architecture: str
    kind: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    weight_dtype: str
    schemes: dict[str, str]
    quantized: dict[str, QuantizedSite]
    kv_dtype: str
    config: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class DenseInfo:
    """A layer behind the pooling: activation(weight x + bias), float32 tensors of POOLING_FILE; `bias` is "" where it has none."""

    weight: str
    bias: str
    activation: str


@dataclasses.dataclass(frozen=True)
class PoolingInfo:
    """How the model makes an embedding of hidden states: one of POOLINGS, then `layers`, then perhaps length 1.

    `max_tokens` is how long a text its makers give to it (0: the whole context). `pooler` is BERT's own layer over the first
    token, where the checkpoint has it, as a list of one.
    """

    mode: str
    normalize: bool
    max_tokens: int
    layers: tuple[DenseInfo, ...]
    pooler: tuple[DenseInfo, ...]


@dataclasses.dataclass(frozen=True)
class InstanceInfo:
    """One compiled instance of a function: its symbol in the library and the most rows it takes."""

    symbol: str
    max_rows: int


@dataclasses.dataclass(frozen=True)
class FunctionInfo:
    """A function of the artifact (`embed`, `body`, `head`): its weights in call order, its instances by ascending rows."""

    name: str
    params: tuple[str, ...]
    instances: tuple[InstanceInfo, ...]

    @property
    def max_rows(self) -> int:
        """Rows that the largest instance takes."""
        return self.instances[-1].max_rows


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Type (`bfloat16` is stored as uint16) and shape of a stored weight."""

    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class WeightsInfo:
    """A file with the weights and what is in it, by parameter name. Targets share it where they read the same layout."""

    file: str
    tensors: dict[str, TensorInfo]


@dataclasses.dataclass(frozen=True)
class CacheGroup:
    """A pool of pages that compiled functions take as one argument of shape `[pages, *record_shape]`.

    One page is one contiguous record of `record_bytes` bytes that holds `page_tokens` tokens of `layers` layers.
    """

    name: str
    kind: str
    layers: int
    page_tokens: int
    dtype: str
    record_shape: tuple[int, ...]
    record_bytes: int


@dataclasses.dataclass(frozen=True)
class PlanInfo:
    """Bounds of a step. Together they fix every offset of the plan (`offsets`, in int32 elements).

    `window` is the most that any layer looks back (0: some layer looks back to the first token).
    """

    max_tokens: int
    max_seqs: int
    kv_heads: int
    tile_rows: int
    tree_words: int
    window: int
    offsets: dict[str, int]

    @classmethod
    def of(cls, layout: PlanLayout, window: int = 0) -> PlanInfo:
        """The record of a layout; `offsets` repeats what follows from the bounds, for readers without this code."""
        bounds = {field.name: getattr(layout, field.name) for field in dataclasses.fields(layout)}
        return cls(**bounds, window=window, offsets={name: getattr(layout, name) for name in ARRAYS})

    def layout(self) -> PlanLayout:
        """The layout of these bounds."""
        return PlanLayout(self.max_tokens, self.max_seqs, self.kv_heads, self.tile_rows, self.tree_words)


@dataclasses.dataclass(frozen=True)
class MemoryInfo:
    """Bytes of the weights, of the largest workspace of a step, and of one page; `formula` says how they add up."""

    weights_bytes: int
    workspace_bytes: int
    record_bytes: int
    formula: str


@dataclasses.dataclass(frozen=True)
class FileInfo:
    """A file of the artifact as it was written."""

    sha256: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All that is known about an artifact. `files` lists every file but manifest.json itself, by relative path.

    `targets` stand with the best first: a machine runs the first one that it can. Everything else is common to all of them.
    """

    format_version: int
    heddle_version: str
    tvm_version: str
    ffi_version: str
    targets: tuple[TargetInfo, ...]
    model: ModelInfo
    pooling: PoolingInfo
    generation: dict[str, Any]
    functions: tuple[FunctionInfo, ...]
    weights: tuple[WeightsInfo, ...]
    caches: tuple[CacheGroup, ...]
    plan: PlanInfo
    memory: MemoryInfo
    files: dict[str, FileInfo]
    compile_seconds: dict[str, float]

    def weights_of(self, target: TargetInfo) -> WeightsInfo:
        """The weights that a target of this manifest reads."""
        return next(weights for weights in self.weights if weights.file == target.weights)

    def function(self, name: str) -> FunctionInfo:
        """The function called `name`; ManifestError (with the names there are) where there is none."""
        for function in self.functions:
            if function.name == name:
                return function
        raise ManifestError(f"manifest.functions has no {name!r}; it has {', '.join(f.name for f in self.functions)}")

    def to_json(self) -> str:
        """The manifest as JSON text, fields in the order of the schema."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read and check a manifest; ManifestError names the first field that disagrees with the schema."""
        raw = read_json(text)
        found = raw.get("format_version")
        if raw.get("kind") == MODULE:
            raise ManifestError(
                "the artifact holds a compiled torch module, not a language model",
                fix="open it with heddle.load_module",
            )
        if found != FORMAT_VERSION:  # before anything else: another version may have other fields
            raise ManifestError(
                f"manifest.format_version is {found!r}, this Heddle reads {FORMAT_VERSION}",
                "the artifact was written by another version of Heddle",
                "compile the model again, or install the Heddle version that wrote it"
                + (f" ({raw['heddle_version']})" if "heddle_version" in raw else ""),
            )
        manifest: Manifest = decode(cls, raw, "manifest")
        _check(manifest)
        return manifest


def _check_targets(manifest: Manifest) -> None:
    """At least one target, each once, with weights that there are."""
    names = [target.name for target in manifest.targets]
    if not names or len(set(names)) < len(names):
        raise ManifestError(f"manifest.targets must have a target, and each once, found {names}")
    held = [weights.file for weights in manifest.weights]
    for i, target in enumerate(manifest.targets):
        if target.weights not in held:
            raise ManifestError(
                f"manifest.targets[{i}].weights is {target.weights!r}, which manifest.weights lacks (it has {held})"
            )


def _check(manifest: Manifest) -> None:
    """Fields that must agree with each other."""
    choices = [("model.kind", manifest.model.kind, KINDS), ("pooling.mode", manifest.pooling.mode, POOLINGS)]
    stacks = {"layers": manifest.pooling.layers, "pooler": manifest.pooling.pooler}
    dense = [(f"pooling.{name}[{i}]", layer) for name, layers in stacks.items() for i, layer in enumerate(layers)]
    choices += [(f"{path}.activation", layer.activation, ACTIVATIONS) for path, layer in dense]
    for field, value, known in choices:
        if value not in known:
            raise ManifestError(f"manifest.{field} is {value!r}; known are {', '.join(known)}")
    for i, function in enumerate(manifest.functions):
        rows = [instance.max_rows for instance in function.instances]
        if not rows or rows != sorted(rows) or rows[0] < 1:
            raise ManifestError(f"manifest.functions[{i}].instances must be ordered by max_rows >= 1, found {rows}")
        for j, weights in enumerate(manifest.weights):
            for name in function.params:
                if name not in weights.tensors:
                    raise ManifestError(
                        f"manifest.functions[{i}].params names {name!r}, which manifest.weights[{j}].tensors lacks"
                    )
    for i, group in enumerate(manifest.caches):
        if group.dtype not in ITEM_BYTES:
            raise ManifestError(f"manifest.caches[{i}].dtype is {group.dtype!r}; known are {', '.join(ITEM_BYTES)}")
        size = ITEM_BYTES[group.dtype]
        for extent in group.record_shape:
            size *= extent
        if size != group.record_bytes:
            raise ManifestError(
                f"manifest.caches[{i}].record_bytes is {group.record_bytes}, its record_shape needs {size}"
            )
    for field, least in (
        ("max_tokens", 1),
        ("max_seqs", 1),
        ("kv_heads", 1),
        ("tile_rows", 1),
        ("tree_words", 0),
        ("window", 0),
    ):
        if getattr(manifest.plan, field) < least:
            raise ManifestError(
                f"manifest.plan.{field} is {getattr(manifest.plan, field)}, it must be at least {least}"
            )
    expected = PlanInfo.of(manifest.plan.layout()).offsets
    if manifest.plan.offsets != expected:
        raise ManifestError(
            f"manifest.plan.offsets is {manifest.plan.offsets}, this Heddle lays plans out as {expected}",
            "the kernels were compiled for another plan layout",
            "compile again",
        )
    _check_targets(manifest)
    files = [(f"weights[{i}].file", weights.file) for i, weights in enumerate(manifest.weights)]
    files += [(f"targets[{i}].library", target.library) for i, target in enumerate(manifest.targets)]
    for field, file in files + [("pooling", POOLING_FILE)] * bool(dense):
        if file not in manifest.files:
            raise ManifestError(f"manifest.{field} needs {file!r}, which manifest.files lacks")
    check_paths(manifest.files)


def check_paths(files: Iterable[str]) -> None:
    """Names of files stay inside of the artifact."""
    for path in files:
        if not path or path.startswith("/") or ".." in path.split("/"):
            raise ManifestError(f"manifest.files has {path!r}, which points outside of the artifact")
