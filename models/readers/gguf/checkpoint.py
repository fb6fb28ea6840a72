"""The tensors of GGUF files under the names, in the order of rows and with the values that transformers gives them."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...problems import Problem, error, raise_errors
from ...quant_tensor import QuantTensor
from ...weights import TensorInfo
from .family import Family, Sizes
from .header import Entry, Header
from .types import FLOATS, READABLE, TYPES

CONSUMED = re.compile(r"rope_freqs\.weight|rope_factors_(long|short)\.weight|blk\.\d+\.attn_rot_embd\..*")
"""Tensors that the config is made of."""

_MAX_HEADS = 1024  # that have a tensor each


@dataclasses.dataclass(frozen=True)
class Order:
    """An order of rows: for each row of transformers' tensor, the row of llama.cpp's.

    llama.cpp's rows, numbered, are shaped to `shape` and two axes of that are swapped.
    """

    shape: tuple[int, int, int]
    swapped: tuple[int, int]

    def index(self) -> np.ndarray:
        """The order as row numbers; made when rows are read, so that opening a file takes no memory for them."""
        return np.arange(np.prod(self.shape)).reshape(self.shape).swapaxes(*self.swapped).reshape(-1)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor comes from: some rows of a stored one, perhaps transposed, with an offset added to its values."""

    header: Header
    entry: Entry
    shape: tuple[int, ...]
    rows: slice | Order | None = None
    transposed: bool = False
    offset: float = 0.0

    def stored(self) -> np.ndarray | QuantTensor:
        """The rows as they are stored."""
        raw, shape = self.header.bytes_of(self.entry), self.entry.shape
        rows = self.rows.index() if isinstance(self.rows, Order) else self.rows
        kind, block = self.entry.type, TYPES[self.entry.type]
        if kind in FLOATS:
            array = raw.view(np.dtype(FLOATS[kind][1])).reshape(shape)
            return array if rows is None else array[rows]
        blocks = raw.reshape(-1, shape[-1] // block.elements, block.bytes)
        assert block.decode is not None, block.name  # other types have been refused
        return block.decode(blocks if rows is None else blocks[rows])

    def values(self) -> np.ndarray:
        """The tensor in floats."""
        stored = self.stored()
        array = (stored.dequantize() if isinstance(stored, QuantTensor) else stored).reshape(
            self.shape[::-1] if self.transposed else self.shape
        )
        if self.offset:
            array = array.astype(np.float32) + np.float32(self.offset)
        return array.T if self.transposed else array


class GgufCheckpoint:
    """The tensors of the files of one model."""

    def __init__(self, headers: Sequence[Header], family: Family, sizes: Sizes, subject: str) -> None:
        """ModelError names all types that cannot be read at once."""
        raise_errors(subject, _type_problems(headers))
        self._headers = headers
        self._places = {
            name: place
            for header in headers
            for stored, entry in header.tensors.items()
            if not CONSUMED.fullmatch(stored)
            for name, place in _places(header, stored, entry, family, sizes)
        }
        self.tensors: Mapping[str, TensorInfo] = {name: _info(place) for name, place in self._places.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantized to float32 where it is quantized; else a read-only view of the file where possible."""
        return self._places[name].values()

    def read_quantized(self, name: str) -> QuantTensor:
        """The codes of a tensor whose info has `quant`, of its transpose where that says so."""
        found = self._places[name].stored()
        assert isinstance(found, QuantTensor), f"{name} is not quantized"
        return found

    def identity(self) -> str:
        """Hex digest of each file's header, name, size, modification time and inode, not of values."""
        digest = hashlib.sha256()
        for header in self._headers:
            stat = header.path.stat()
            digest.update(f"{header.path.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}\n".encode())
            digest.update(header.data[: header.end].data)
        return digest.hexdigest()


def _info(place: Place) -> TensorInfo:
    if place.entry.type in FLOATS:
        return TensorInfo("float32" if place.offset else FLOATS[place.entry.type][0], place.shape)
    info = TYPES[place.entry.type].info
    if info is None or len(place.shape) != 2 or place.offset:
        return TensorInfo("float32", place.shape)
    return TensorInfo("float32", place.shape, dataclasses.replace(info, transposed=place.transposed))


def _places(header: Header, stored: str, entry: Entry, family: Family, sizes: Sizes) -> Iterator[tuple[str, Place]]:
    """The tensors of transformers that are made of one of a file; one without a known name or of another size keeps its own."""
    base, _, suffix = stored.rpartition(".")
    layer = re.match(r"blk\.(\d+)\.", base)
    index = layer[1] if layer else ""
    generic = re.sub(r"^blk\.\d+\.", "blk.{i}.", base)
    names = family.names.get(generic) if suffix in ("weight", "bias") else None
    shape = entry.shape
    if names is None or not shape or ("{j}" in names and (len(shape) != 2 or shape[0] > _MAX_HEADS)):
        yield stored, Place(header, entry, shape)
    elif isinstance(names, tuple):
        widths = (sizes.heads * sizes.head_dim, *(sizes.kv_heads * sizes.head_dim,) * 2)
        if shape[0] != sum(widths):
            yield stored, Place(header, entry, shape)
            return
        for i, name in enumerate(names):
            rows = slice(sum(widths[:i]), sum(widths[: i + 1]))
            yield _named(name, index, suffix), Place(header, entry, (widths[i], *shape[1:]), rows)
    elif "{j}" in names:
        for j in range(shape[0]):
            name = names.format(i=index, j=j)
            yield f"{name}.{suffix}", Place(header, entry, shape[1:], slice(j, j + 1))
    else:
        transposed = family.transposed and layer is not None and len(shape) == 2
        rows_order = _order(generic, shape[0], family, sizes)
        offset = family.norm_offset if generic.endswith("norm") else 0.0
        place = Place(header, entry, shape[::-1] if transposed else shape, rows_order, transposed, offset)
        yield _named(names, index, suffix), place


def _named(name: str, index: str, suffix: str) -> str:
    return f"{name.format(i=index)}.{suffix}"


def _order(generic: str, rows: int, family: Family, sizes: Sizes) -> Order | None:
    """The order of a tensor's rows, None where both have the same."""
    heads = {"blk.{i}.attn_q": sizes.heads, "blk.{i}.attn_k": sizes.kv_heads}.get(generic)
    if family.rotary_rows and heads is not None and rows % (2 * heads) == 0:
        # A pair of dimensions that rotates together is two neighbours here, and half a head apart there.
        return Order((heads, rows // (2 * heads), 2), (1, 2))
    if family.fused_rows and generic == "blk.{i}.attn_qkv" and rows % (3 * sizes.heads) == 0:
        return Order((3, sizes.heads, rows // (3 * sizes.heads)), (0, 1))
    return None


def _type_problems(headers: Sequence[Header]) -> list[Problem]:
    """Types that cannot be read, each with the tensors that have it."""
    found: dict[int, list[str]] = {}
    for header in headers:
        for name, entry in header.tensors.items():
            block = TYPES.get(entry.type)
            if block is None or (entry.type not in FLOATS and block.decode is None):
                found.setdefault(entry.type, []).append(name)
    fix = f"take a file of other types, such as Q4_K_M or Q8_0; readable: {', '.join(READABLE)}"
    return [
        error(
            f"{len(names)} tensors are of the type {_type_name(kind)}, which is not supported",
            f"such as {names[0]}",
            fix,
        )
        for kind, names in found.items()
    ]


def _type_name(kind: int) -> str:
    return TYPES[kind].name if kind in TYPES else f"with the unknown number {kind}"
