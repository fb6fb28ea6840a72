"""Safetensors files whose every tensor starts at a 64-byte boundary: written in one stream, opened by mmap without a copy.

A safetensors file is 8 bytes (length of the header, little endian), a JSON header, and the tensors' bytes without gaps. The
format aligns nothing, and readers refuse gaps, so tensors called `__pad.N` of type U8 fill up to the next boundary; any
safetensors reader opens the file and sees them as tensors of no interest.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from .errors import TensorFileError

ALIGNMENT = 64
PADDING = "__pad."
WRITE_BYTES = 8 << 20
"""Bytes per write: file systems then form large folios, which can be mapped as huge pages (measured: 100 % against 0 % at 1 MB)."""

_MAX_HEADER = 100 << 20  # bytes; the limit of the reference implementation

# safetensors type: our name, NumPy storage type (bfloat16 and 8-bit floats are held as their bits)
_TYPES = {
    "F64": ("float64", np.float64),
    "F32": ("float32", np.float32),
    "F16": ("float16", np.float16),
    "BF16": ("bfloat16", np.uint16),
    "I64": ("int64", np.int64),
    "I32": ("int32", np.int32),
    "I16": ("int16", np.int16),
    "I8": ("int8", np.int8),
    "U64": ("uint64", np.uint64),
    "U32": ("uint32", np.uint32),
    "U16": ("uint16", np.uint16),
    "U8": ("uint8", np.uint8),
    "BOOL": ("bool", np.bool_),
    "F8_E4M3": ("float8_e4m3fn", np.uint8),
    "F8_E5M2": ("float8_e5m2", np.uint8),
    "F8_E8M0": ("float8_e8m0fnu", np.uint8),
}
_CODES = {name: code for code, (name, _) in _TYPES.items()}
_STORAGE = {name: np.dtype(storage) for name, storage in _TYPES.values()}


def storage_dtype(dtype: str) -> np.dtype:
    """NumPy type that holds elements of `dtype`: its own, or unsigned integers for bfloat16 and 8-bit floats.

    ValueError, with the known types, for others.
    """
    if dtype not in _STORAGE:
        raise ValueError(f"unknown tensor type {dtype!r}; known are {', '.join(_STORAGE)}")
    return _STORAGE[dtype]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor in a file: type (`float32`, `bfloat16`, ...), shape, and where its bytes are from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    bytes: int

    def view(self, data: np.ndarray) -> np.ndarray:
        """The tensor inside `data`, the uint8 array of the whole file, without a copy (see `storage_dtype`)."""
        return data[self.start : self.start + self.bytes].view(storage_dtype(self.dtype)).reshape(self.shape)


def read_header(path: str | Path) -> dict[str, Entry]:
    """The tensors in a safetensors file, in order of position, padding left out.

    Raises TensorFileError, naming file and tensor, where the file is truncated, corrupt, or of another format.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > _MAX_HEADER:
            raise TensorFileError(f"{path} is not a safetensors file", f"it is {size} bytes and begins with {length}")
        if size < 8 + length:
            raise TensorFileError(
                f"{path} is truncated",
                f"its header alone needs {8 + length} bytes, the file has {size}",
                "copy it again",
            )
        try:
            raw = json.loads(file.read(length))
            if not isinstance(raw, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            raise TensorFileError(f"{path} has a corrupt header", str(error), "copy the file again") from error
    entries = {name: _entry(path, name, value, 8 + length) for name, value in raw.items() if name != "__metadata__"}
    end = max((entry.start + entry.bytes for entry in entries.values()), default=8 + length)
    if end != size:
        state = "truncated" if end > size else "longer than its header says"
        raise TensorFileError(
            f"{path} is {state}", f"its tensors end at byte {end}, the file has {size}", "copy it again"
        )
    ordered = sorted(entries.items(), key=lambda item: (item[1].start, item[1].bytes))  # empty tensors first
    position = 8 + length
    for name, entry in ordered:
        if entry.start != position:
            raise TensorFileError(
                f"{path} has a corrupt header", f"tensor {name!r} starts at {entry.start}, not {position}"
            )
        position += entry.bytes
    return {name: entry for name, entry in ordered if not name.startswith(PADDING)}


def _entry(path: Path, name: str, value: object, base: int) -> Entry:
    try:
        code, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]  # type: ignore[index]
        if code not in _TYPES:
            raise ValueError(f"type {code!r} is none of {', '.join(_TYPES)}")
        dtype = _TYPES[code][0]
        if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
            raise ValueError(f"shape {shape} and data_offsets {[start, end]} must be counts")
        if math.prod(shape) * storage_dtype(dtype).itemsize != end - start:
            raise ValueError(f"shape {shape} of {dtype} does not take {end - start} bytes at {start}")
    except (KeyError, TypeError, ValueError) as error:
        raise TensorFileError(
            f"{path} has a corrupt header: tensor {name!r}", str(error), "copy the file again"
        ) from error
    return Entry(dtype, tuple(shape), base + start, end - start)


def layout(specs: Iterable[tuple[str, str, tuple[int, ...]]], *, plain: bool = False) -> tuple[bytes, dict[str, Entry]]:
    """Header bytes and entries of a file that holds `specs` (name, type, shape) in this order, each tensor aligned.

    A `plain` file is one for other programs: not aligned, so that no padding stands among its tensors, and with the metadata
    that transformers asks for.
    """
    entries: dict[str, Entry] = {}
    header: dict[str, dict[str, object]] = {"__metadata__": {"format": "pt"}} if plain else {}
    position = 0

    def add(name: str, dtype: str, shape: tuple[int, ...]) -> None:
        nonlocal position
        size = int(np.prod(shape, dtype=np.int64)) * storage_dtype(dtype).itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [position, position + size]}
        entries[name] = Entry(dtype, tuple(shape), position, size)
        position += size

    for name, dtype, shape in specs:
        if name in entries or name.startswith(PADDING) or name == "__metadata__":
            raise ValueError(f"tensor name {name!r} stands twice or is reserved")
        if position % ALIGNMENT and not plain:
            add(f"{PADDING}{len(entries)}", "uint8", (-position % ALIGNMENT,))
        add(name, dtype, shape)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)  # the reference writer pads with spaces too
    base = 8 + len(text)
    placed = {name: dataclasses.replace(entry, start=base + entry.start) for name, entry in entries.items()}
    return len(text).to_bytes(8, "little") + text, placed


def chunks(
    specs: Iterable[tuple[str, str, tuple[int, ...]]], produce: Callable[[str], np.ndarray], *, plain: bool = False
) -> Iterator[tuple[str, memoryview]]:
    """The bytes of a file that holds `specs`, in pieces of WRITE_BYTES with the name of the tensor that was taken last.

    `produce(name)` is asked for one tensor at a time, in order; one tensor and one piece are held at once.
    Raises ValueError where a produced array has not the announced type and shape.
    """
    header, entries = layout(specs, plain=plain)
    buffer = np.empty(WRITE_BYTES, np.uint8)
    filled = 0

    def put(name: str, data: np.ndarray) -> Iterator[tuple[str, memoryview]]:
        nonlocal filled
        done = 0
        while done < len(data):
            count = min(len(data) - done, WRITE_BYTES - filled)
            buffer[filled : filled + count] = data[done : done + count]
            filled, done = filled + count, done + count
            if filled == WRITE_BYTES:
                filled = 0
                yield name, buffer.data

    yield from put("", np.frombuffer(header, np.uint8))
    last = ""
    for name, entry in entries.items():
        if name.startswith(PADDING):
            array = np.zeros(entry.shape, np.uint8)
        else:
            array, last = produce(name), name
            if array.dtype.name == entry.dtype:
                array = array.view(storage_dtype(entry.dtype))
            if array.dtype != storage_dtype(entry.dtype) or array.shape != entry.shape:
                raise ValueError(
                    f"tensor {name!r} was announced as {entry.dtype}{list(entry.shape)}, "
                    f"but came as {array.dtype}{list(array.shape)}"
                )
        yield from put(last, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        del array
    if filled:
        yield last, buffer[:filled].data


def write(
    path: str | Path,
    specs: Iterable[tuple[str, str, tuple[int, ...]]],
    produce: Callable[[str], np.ndarray],
    *,
    plain: bool = False,
) -> dict[str, Entry]:
    """Write a file in one go (see `chunks`); returns where each tensor is. No atomicity: ArtifactWriter adds that."""
    specs = list(specs)
    with Path(path).open("wb", buffering=0) as file:
        for _, piece in chunks(specs, produce, plain=plain):
            write_all(file.write, piece)
    return {name: entry for name, entry in layout(specs, plain=plain)[1].items() if not name.startswith(PADDING)}


def write_all(write_some: Callable[[memoryview], int | None], piece: memoryview) -> None:
    """Write a whole piece through an unbuffered file, which may take less than it was given."""
    while len(piece):
        piece = piece[write_some(piece) or 0 :]
