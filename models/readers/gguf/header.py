"""The header of a GGUF file: metadata, and where every tensor is.

A file is a magic number and a version, counts, key-value pairs, one record a tensor, and the tensors' bytes, each at a
multiple of the alignment (specification: docs/gguf.md of the ggml repository; versions 2 and 3, which differ in the byte order
they allow). Nothing of a file is believed: every length is checked against what is left of it before it is used, and arrays stay
where they are until somebody asks for them, so that reading a header takes no memory to speak of.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from ...downloads import stand_in
from ...problems import ModelError, error
from .types import TYPES

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_MAX_ENTRIES = 1 << 16  # key-value pairs, tensors: more than any model has, little enough to hold
MAX_HEADER = 1 << 28
"""Bytes: many times what a vocabulary takes. What is decoded of them may take four times as many."""
_MAX_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor: its type by number (see `types`), shape (rows first), first byte in the file, and size in bytes.

    The size is 0 where the type is unknown.
    """

    type: int
    shape: tuple[int, ...]
    start: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself. Metadata values are plain Python values, `np.ndarray` for arrays of numbers, `Strings`."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Entry]
    end: int
    """Where the header ends, in bytes."""
    data: np.ndarray
    """The whole file as uint8, mapped."""

    def bytes_of(self, entry: Entry) -> np.ndarray:
        """The bytes of a tensor, a view of the file."""
        return self.data[entry.start : entry.start + entry.bytes]


class Strings(Sequence[str]):
    """An array of strings inside a file, decoded when it is asked for. ModelError where a string is no UTF-8."""

    def __init__(self, file: _File, count: int, start: int) -> None:
        self._file, self._count, self._start = file, count, start

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        cursor = _Cursor(self._file, self._start)
        for _ in range(self._count):
            yield cursor.string("an array of strings")

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return list(self)[index]


@dataclasses.dataclass(frozen=True)
class _File:
    path: Path
    data: memoryview

    def refuse(self, what: str, why: str, fix: str = "download the file again") -> ModelError:
        return ModelError(str(self.path), [error(what, why, fix)])


class _Cursor:
    """A place in a file that moves on with every value that is read."""

    def __init__(self, file: _File, position: int = 0) -> None:
        self.file, self.position = file, position

    def skip(self, count: int, what: str) -> int:
        """The place of the next `count` bytes, behind which the cursor stands then."""
        start, left = self.position, len(self.file.data) - self.position
        if count > left:
            why = f"at byte {start}, {what} takes {count} bytes and {left} are left of {len(self.file.data)}"
            raise self.file.refuse("the GGUF file is truncated or corrupt", why)
        if start + count > MAX_HEADER:
            why = f"{what} ends more than {MAX_HEADER} bytes into the file"
            raise self.file.refuse("the GGUF file is corrupt", why)
        self.position += count
        return start

    def number(self, form: str, what: str) -> Any:
        return struct.unpack_from(form, self.file.data, self.skip(struct.calcsize(form), what))[0]

    def string(self, what: str) -> str:
        start = self.skip(self.number("<Q", what), what)
        try:
            return str(self.file.data[start : self.position], "utf-8")
        except UnicodeDecodeError as exception:
            raise self.file.refuse("the GGUF file is corrupt", f"{what} at byte {start} is no UTF-8") from exception

    def value(self, kind: int, what: str) -> Any:
        """A metadata value of a type by number."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind], what)
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self._array(self.number("<I", what), self.number("<Q", what), what)
        raise self.file.refuse("the GGUF file is corrupt", f"{what} has the unknown value type {kind}")

    def _array(self, kind: int, count: int, what: str) -> np.ndarray | Strings:
        if kind in _SCALARS:
            dtype = np.dtype(np.bool_) if _SCALARS[kind] == "<?" else np.dtype(_SCALARS[kind])
            start = self.skip(count * dtype.itemsize, what)
            return np.frombuffer(self.file.data, dtype, count, start)
        if kind != _STRING:
            why = f"{what} is an array of the value type {kind}; arrays hold numbers or strings"
            raise self.file.refuse("the GGUF file is corrupt", why)
        start = self.skip(8 * count, what)  # no string takes less: the loop is bounded by the file
        self.position, end = start, start
        unpack = struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):  # a vocabulary has 10^5 strings, so the loop is a plain one
                end += 8 + unpack(self.file.data, end)[0]
        except (struct.error, OverflowError):  # the last length led out of the file
            end = len(self.file.data) + 1
        self.skip(end - start, what)
        return Strings(self.file, count, start)


def read_header(path: str | Path) -> Header:
    """The header of a GGUF file, whose tensors are mapped, not read.

    Raises ModelError where the file is truncated, corrupt, big-endian, of version 1 or of another format.
    """
    path = Path(path)
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != MAGIC:
        other = error(f"{path} is not a GGUF file", f"it begins with {magic!r}, not {MAGIC!r}", "give a model in GGUF")
        raise ModelError(str(path), [stand_in(path) or other])
    array = np.asarray(np.memmap(path, np.uint8, mode="r"))
    file = _File(path, array.data)
    cursor = _Cursor(file, 4)
    _check_version(file, cursor.number("<I", "the version"))
    tensors = _count(cursor, "tensors", 24)
    pairs = _count(cursor, "key-value pairs", 13)
    metadata = _read_metadata(cursor, pairs)
    records = _read_records(cursor, tensors)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise file.refuse("the GGUF file is corrupt", f"general.alignment is {alignment!r:.40}, no power of two")
    end = cursor.position
    return Header(path, metadata, _place(file, records, end, alignment), end, array)


def _check_version(file: _File, version: int) -> None:
    if version in VERSIONS:
        return
    known = f"supported: versions {' and '.join(map(str, VERSIONS))}"
    if int.from_bytes(version.to_bytes(4, "little"), "big") in (*VERSIONS, 1):
        raise file.refuse("the GGUF file is big-endian", known, "convert the model for little-endian machines")
    what = f"the GGUF file has version {version}"
    raise file.refuse(what, known, "convert the model again with a current llama.cpp")


def _count(cursor: _Cursor, what: str, least: int) -> int:
    """A count of entries of `least` bytes or more."""
    count: int = cursor.number("<Q", f"the number of {what}")
    left = len(cursor.file.data) - cursor.position
    if count * least > left:
        why = f"{count} {what} take {count * least} bytes at least, and {left} are left"
        raise cursor.file.refuse("the GGUF file is truncated or corrupt", why)
    if count > _MAX_ENTRIES:
        why = f"it announces {count} {what}, and at most {_MAX_ENTRIES} are read"
        raise cursor.file.refuse("the GGUF file is corrupt", why)
    return count


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(count):
        key = cursor.string(f"key {index}")
        if key in metadata:
            raise cursor.file.refuse("the GGUF file is corrupt", f"the key {key!r:.80} stands twice")
        what = f"the value of {key!r:.80}"
        metadata[key] = cursor.value(cursor.number("<I", what), what)
    return metadata


def _read_records(cursor: _Cursor, count: int) -> dict[str, tuple[int, tuple[int, ...], int]]:
    """Type, shape and offset of every tensor by name. A shape is stored with its fastest dimension first."""
    records: dict[str, tuple[int, tuple[int, ...], int]] = {}
    for index in range(count):
        name = cursor.string(f"the name of tensor {index}")
        what = f"the record of tensor {name!r:.80}"
        if name in records:
            raise cursor.file.refuse("the GGUF file is corrupt", f"tensor {name!r:.80} stands twice")
        dimensions = cursor.number("<I", what)
        if dimensions > _MAX_DIMENSIONS:
            raise cursor.file.refuse("the GGUF file is corrupt", f"{what} has {dimensions} dimensions")
        shape = tuple(cursor.number("<Q", what) for _ in range(dimensions))[::-1]
        if 0 in shape:
            raise cursor.file.refuse("the GGUF file is corrupt", f"tensor {name!r:.80} has the shape {list(shape)}")
        records[name] = cursor.number("<I", what), shape, cursor.number("<Q", what)
    return records


def _place(
    file: _File, records: dict[str, tuple[int, tuple[int, ...], int]], end: int, alignment: int
) -> dict[str, Entry]:
    """The records with places in the file. Tensors lie one behind the other, each at a multiple of the alignment."""
    base = end + -end % alignment
    expected: int | None = 0
    entries: dict[str, Entry] = {}
    for name, (kind, shape, offset) in records.items():
        block = TYPES.get(kind)
        size = 0
        if block is not None:
            if (shape[-1] if shape else 1) % block.elements:
                why = f"tensor {name!r:.80} has rows of {shape[-1]}, and {block.name} comes in {block.elements}"
                raise file.refuse("the GGUF file is corrupt", why)
            size = math.prod(shape) // block.elements * block.bytes
        if offset % alignment or (expected is not None and offset != expected):
            place = f"a multiple of {alignment}" if expected is None else f"at {expected}"
            raise file.refuse("the GGUF file is corrupt", f"tensor {name!r:.80} is at {offset}, not {place}")
        expected = None if block is None else offset + size + -(offset + size) % alignment
        entries[name] = Entry(kind, shape, base + offset, size)
        if base + offset + size > len(file.data):
            why = f"tensor {name!r:.80} ends at byte {base + offset + size}, the file has {len(file.data)}"
            raise file.refuse("the GGUF file is truncated", why)
    return entries
