"""Weight names: a declarative table from parameters to tensors of a checkpoint, and the match of the two.

A family writes one table. Names hold `{i}` where the layer's index goes, shapes are written in logical axes whose
sizes the config gives, a `part` says which rows of a fused projection are meant, and a `when` names a field of the config
that must be true. Everything that does not match is reported at once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from .problems import Problem, error, nearest, raise_errors
from .quant_tensor import QuantInfo, QuantTensor
from .view import WHOLE, View

Kind = Literal["linear", "embedding", "table", "vector"]
"""A matrix that multiplies, the tokens' table, another table (positions), or a norm weight or bias.

Vectors are float32 always."""
QUANTIZABLE = ("linear", "embedding")
FLOAT_DTYPES = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A tensor of a checkpoint: dtype (`float32`, `bfloat16`, ...) and shape; what it is read as where it is quantized."""

    dtype: str
    shape: tuple[int, ...]
    quant: QuantInfo | None = None


class TensorSource(Protocol):
    """What checkpoints have in common: names, types and shapes at once, values one tensor at a time."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name."""

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantized; it may be read-only."""

    def read_quantized(self, name: str) -> QuantTensor:
        """One tensor whose info has `quant`, as it is stored."""

    def identity(self) -> str:
        """A digest that changes whenever the content may have changed."""


@dataclasses.dataclass(frozen=True)
class WeightSpec:
    """Where a parameter comes from: the first of the names in `source` that a checkpoint has.

    A checkpoint that stores it under several of these names must store the same values. `view` cuts the parameter out of
    the stored tensor. With `pieces` a name holds `{piece}`, and the parameter (a vector) is that many tensors, one after the
    other.
    """

    source: tuple[str, ...]
    shape: tuple[int, ...]
    kind: Kind
    view: View = WHOLE
    pieces: int = 0

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in the checkpoint, or of each piece."""
        return self.view.stored(self.piece_shape)

    @property
    def piece_shape(self) -> tuple[int, ...]:
        """The shape of what one tensor gives."""
        return (self.shape[0] // self.pieces, *self.shape[1:]) if self.pieces else self.shape

    def tensors(self, name: str) -> list[str]:
        """The tensors that one of the names of `source` stands for."""
        return [name.replace("{piece}", str(i)) for i in range(self.pieces)] if self.pieces else [name]


@dataclasses.dataclass(frozen=True)
class Part:
    """Part `index` of a fused projection, whose rows are those of `axes` one after the other.

    With `groups`, the name of a size, the rows are so many blocks and each holds its share of every axis: GPT-NeoX keeps q, k
    and v of a head together.
    """

    axes: tuple[str, ...]
    index: int
    groups: str = ""

    def view(self, sizes: Mapping[str, int], view: View) -> View:
        """`view`, cut to this part."""
        groups = sizes[self.groups] if self.groups else 1
        widths = [sizes[axis] // groups for axis in self.axes]
        return dataclasses.replace(view, groups=groups, block=sum(widths), start=sum(widths[: self.index]))


@dataclasses.dataclass(frozen=True)
class Weight:
    """A row of a family's table: parameter, tensor names, logical axes, kind, the config field that asks for it.

    `part`, `transpose`, `offset` and `fold` (the name of a size) say how it is cut out of the stored tensor (see `View`),
    `pieces` (the name of a size) of how many tensors it consists.
    """

    param: str
    source: tuple[str, ...]
    axes: tuple[str, ...]
    kind: Kind
    when: str = ""
    part: Part | None = None
    transpose: bool = False
    offset: float = 0.0
    fold: str = ""
    pieces: str = ""

    def view(self, sizes: Mapping[str, int]) -> View:
        """How the parameter is cut out of the stored tensor."""
        view = View(transpose=self.transpose, offset=self.offset, fold=sizes[self.fold] if self.fold else 0)
        return self.part.view(sizes, view) if self.part is not None else view


def fused(
    params: Sequence[str],
    source: str,
    axes: Sequence[str],
    kind: Kind,
    *,
    columns: tuple[str, ...] = (),
    when: str = "",
    groups: str = "",
    transpose: bool = False,
) -> tuple[Weight, ...]:
    """The rows of parameters that are the parts of one tensor, in this order: q, k and v, or gate and up."""
    return tuple(
        Weight(param, (source,), (axis, *columns), kind, when, Part(tuple(axes), i, groups), transpose)
        for i, (param, axis) in enumerate(zip(params, axes, strict=True))
    )


def expand(
    table: Sequence[Weight], *, layers: int, sizes: Mapping[str, int], flags: Any, base: str = "model."
) -> dict[str, WeightSpec]:
    """The specs of one model. `sizes` gives the size of each axis, `flags` is the object whose fields `when` names.

    Checkpoints of a bare model, saved without its head, lack the prefix `base`: both names are accepted.
    """
    specs = {}
    for row in table:
        if row.when and not getattr(flags, row.when):
            continue
        shape, view = tuple(sizes[axis] for axis in row.axes), row.view(sizes)
        for layer in range(layers if "{i}" in row.param else 1):
            names = [name.replace("{i}", str(layer)) for name in row.source]
            names += [name.removeprefix(base) for name in names if name.startswith(base)]
            pieces = sizes[row.pieces] if row.pieces else 0
            specs[row.param.format(i=layer)] = WeightSpec(tuple(names), shape, row.kind, view, pieces)
    return specs


@dataclasses.dataclass(frozen=True)
class WeightMatch:
    """Which tensor each parameter is read from, and remarks on the checkpoint that are no errors."""

    names: dict[str, str]
    notes: tuple[str, ...]


def match_weights(
    specs: Mapping[str, WeightSpec], checkpoint: TensorSource, *, ignored: str = "", subject: str = "checkpoint"
) -> WeightMatch:
    """Find the tensor of every parameter; tensors that match the regular expression `ignored` are passed over.

    Raises one ModelError with everything that is missing, extra, misshapen, of an unsupported type, or stored twice
    with different values.
    """
    names: dict[str, str] = {}
    missing: dict[str, WeightSpec] = {}
    used: set[str] = set()
    problems: list[Problem] = []
    notes: list[str] = []
    for param, spec in specs.items():
        stored = [name for name in spec.source if any(t in checkpoint.tensors for t in spec.tensors(name))]
        names[param], *others = stored or spec.source[:1]
        for name, *repeats in zip(*(spec.tensors(other) for other in (names[param], *others)), strict=True):
            if name not in checkpoint.tensors:
                missing[name] = spec
                continue
            repeats = [repeat for repeat in repeats if repeat in checkpoint.tensors]
            used.update([name, *repeats])
            found = _check_tensor(name, checkpoint.tensors[name], spec)
            for repeat in repeats:
                found += _check_repeat(repeat, name, checkpoint, readable=not found)
                notes.append(f'"{repeat}" repeats "{name}", which is used for both')
            problems += found
    passed = [name for name in checkpoint.tensors if name not in used and re.fullmatch(ignored, name)]
    if passed:
        notes.append(f'{len(passed)} tensors are not needed, such as "{passed[0]}"')
    used.update(passed)
    extra = [name for name in checkpoint.tensors if name not in used]
    for name, label in _grouped(missing):
        hint = nearest(name, extra or checkpoint.tensors, 2)
        why = f"expected shape {list(missing[name].stored_shape)}" + (f"; {hint}" if hint else "")
        problems.append(error(f"missing weight {label}", why))
    for name, label in _grouped(extra):
        hint = nearest(name, missing or names.values(), 2) or "no known weight is near"
        why = f"this architecture does not use it; {hint}"
        problems.append(error(f"extra weight {label}", why, "check `architectures` in config.json"))
    raise_errors(subject, dict.fromkeys(problems))  # several parameters may be parts of one tensor
    return WeightMatch(names, tuple(notes))


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The parameters of one model in one checkpoint: what `expand` asks for, found by `match_weights`.

    `names` has the tensor of each, or what stands for its pieces (`WeightSpec.tensors`).
    """

    specs: Mapping[str, WeightSpec]
    names: Mapping[str, str]
    checkpoint: TensorSource

    def info(self, param: str) -> TensorInfo:
        """Type and shape of a parameter, and how it is quantized where its codes can be had."""
        spec = self.specs[param]
        info = self.checkpoint.tensors[spec.tensors(self.names[param])[0]]
        keeps = info.quant is not None and spec.kind in QUANTIZABLE and spec.view.keeps_codes(info.quant.transposed)
        return TensorInfo(info.dtype, spec.shape, info.quant if keeps else None)

    def read(self, param: str) -> np.ndarray:
        """The values of a parameter; they may be read-only."""
        spec = self.specs[param]
        names, shape = spec.tensors(self.names[param]), spec.piece_shape
        found = [spec.view.apply(self.checkpoint.read(name), shape) for name in names]
        return np.concatenate(found) if spec.pieces else found[0]

    def read_quantized(self, param: str) -> QuantTensor:
        """The codes of a parameter whose `info` has `quant`."""
        spec = self.specs[param]
        return spec.view.apply_quantized(self.checkpoint.read_quantized(self.names[param]), spec.shape)


def _check_tensor(name: str, info: TensorInfo, spec: WeightSpec) -> list[Problem]:
    problems = []
    if info.shape != spec.stored_shape:
        why = f"expected {list(spec.stored_shape)} by config.json, found {list(info.shape)}"
        problems.append(error(f'misshapen weight "{name}"', why, "config.json and weights must be of one model"))
    if info.dtype not in FLOAT_DTYPES:
        why = f"supported: {', '.join(FLOAT_DTYPES)}"
        problems.append(error(f'weight "{name}" is stored as {info.dtype}', why, f"convert it to {FLOAT_DTYPES[-1]}"))
    return problems


def _check_repeat(name: str, other: str, checkpoint: TensorSource, *, readable: bool) -> list[Problem]:
    """Two names of one weight must hold the same bits; a config that ties them would otherwise change the model."""
    a, b = checkpoint.tensors[name], checkpoint.tensors[other]
    if a != b:
        why = f'it should repeat "{other}", {b.dtype} {list(b.shape)}; found {a.dtype} {list(a.shape)}'
        return [error(f'misshapen weight "{name}"', why, "config.json and weights must be of one model")]
    if readable and not same_bits(checkpoint.read(name), checkpoint.read(other)):
        fix = 'set "tie_word_embeddings": false if they are two weights'
        return [error(f'weights "{name}" and "{other}" differ', "by config.json they are one weight", fix)]
    return []


def same_bits(a: np.ndarray, b: np.ndarray, block: int = 1 << 22) -> bool:
    """Whether two arrays of one type and shape hold the same bits, compared in blocks of bytes."""
    left, right = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return all(np.array_equal(left[i : i + block], right[i : i + block]) for i in range(0, len(left), block))


def _grouped(names: Iterable[str]) -> list[tuple[str, str]]:
    """Names with labels, in order. Where more than 8 differ by an index only, the first of them speaks for all."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    found: list[tuple[str, str]] = []
    for pattern, group in groups.items():
        if len(group) <= 8:
            found += [(name, f'"{name}"') for name in group]
        else:
            indices = sorted({int(re.findall(r"(?<=\.)\d+(?=\.)", name)[0]) for name in group})
            found.append((group[0], f'"{pattern}" ({len(group)} tensors, first index {_ranges(indices)})'))
    return found


def _ranges(indices: Sequence[int]) -> str:
    """`0-3, 7` for [0, 1, 2, 3, 7]."""
    starts = [i for i in indices if i - 1 not in indices]
    ends = [i for i in indices if i + 1 not in indices]
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in zip(starts, ends, strict=True))
