"""Weight names: a declarative table from parameters to tensors of a checkpoint, and the match of the two.

A family writes one table. Names hold `{i}` where the layer's index goes, shapes are written in logical axes whose
sizes the config gives, and a `when` names a field of the config that must be true. Everything that does not match is
reported at once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from .problems import Problem, error, nearest, raise_errors

Kind = Literal["linear", "embedding", "vector"]
FLOAT_DTYPES = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A tensor of a checkpoint: dtype (`float32`, `bfloat16`, ...) and shape."""

    dtype: str
    shape: tuple[int, ...]


class TensorSource(Protocol):
    """What checkpoints have in common: names, types and shapes at once, values one tensor at a time."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name."""

    def read(self, name: str) -> np.ndarray:
        """One tensor; it may be read-only."""

    def identity(self) -> str:
        """A digest that changes whenever the content may have changed."""


@dataclasses.dataclass(frozen=True)
class WeightSpec:
    """Where a parameter comes from: the first of the names in `source` that a checkpoint has.

    A checkpoint that stores it under several of these names must store the same values.
    """

    source: tuple[str, ...]
    shape: tuple[int, ...]
    kind: Kind


@dataclasses.dataclass(frozen=True)
class Weight:
    """A row of a family's table: parameter, tensor names, logical axes, kind, the config field that asks for it."""

    param: str
    source: tuple[str, ...]
    axes: tuple[str, ...]
    kind: Kind
    when: str = ""


def expand(table: Sequence[Weight], *, layers: int, sizes: Mapping[str, int], flags: Any) -> dict[str, WeightSpec]:
    """The specs of one model. `sizes` gives the size of each axis, `flags` is the object whose fields `when` names.

    Checkpoints of a bare model, saved without its head, lack the prefix `model.`: both names are accepted.
    """
    specs = {}
    for row in table:
        if row.when and not getattr(flags, row.when):
            continue
        shape = tuple(sizes[axis] for axis in row.axes)
        for layer in range(layers if "{i}" in row.param else 1):
            names = [name.format(i=layer) for name in row.source]
            names += [name.removeprefix("model.") for name in names if name.startswith("model.")]
            specs[row.param.format(i=layer)] = WeightSpec(tuple(names), shape, row.kind)
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
        name, *repeats = [name for name in spec.source if name in checkpoint.tensors] or [""]
        if not name:
            missing[spec.source[0]] = spec
            continue
        names[param] = name
        used.update([name, *repeats])
        found = _check_tensor(name, checkpoint.tensors[name], spec)
        for repeat in repeats:
            found += _check_repeat(repeat, name, checkpoint, readable=not found)
            notes.append(f'"{repeat}" repeats "{name}", which is used for both')
        problems += found
    passed = [name for name in checkpoint.tensors if name not in used and re.fullmatch(ignored, name)]
    if passed:
        notes.append(f'{len(passed)} tensors are not needed, such as "{passed[0]}"')
    extra = [name for name in checkpoint.tensors if name not in used and name not in set(passed)]
    for name, label in _grouped(missing):
        hint = nearest(name, extra or checkpoint.tensors, 2)
        why = f"expected shape {list(missing[name].shape)}" + (f"; {hint}" if hint else "")
        problems.append(error(f"missing weight {label}", why))
    for name, label in _grouped(extra):
        hint = nearest(name, missing or names.values(), 2) or "no known weight is near"
        why = f"this architecture does not use it; {hint}"
        problems.append(error(f"extra weight {label}", why, "check `architectures` in config.json"))
    raise_errors(subject, problems)
    return WeightMatch(names, tuple(notes))


def _check_tensor(name: str, info: TensorInfo, spec: WeightSpec) -> list[Problem]:
    problems = []
    if info.shape != spec.shape:
        why = f"expected {list(spec.shape)} by config.json, found {list(info.shape)}"
        problems.append(error(f'misshapen weight "{name}"', why, "config.json and weights must be of one model"))
    if info.dtype not in FLOAT_DTYPES:
        why = f"supported: {', '.join(FLOAT_DTYPES)}"
        problems.append(error(f'weight "{name}" is stored as {info.dtype}', why, "take a checkpoint in floating point"))
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
