"""PyTorch's files (`pytorch_model.bin`), read without PyTorch: both the zip format of 1.6 and later and the one before it.

A zip file holds a pickle, `NAME/data.pkl`, and each storage as an uncompressed member, `NAME/data/KEY`. The older format is a
sequence of pickles (magic number, version, machine, state dictionary, keys of storages) followed by the storages, each with its
count of elements in front. Storages are not read here: an entry says where in the file its tensor is.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...runtime.errors import TensorFileError
from ...runtime.safetensors import Entry, storage_dtype
from .unpickle import Storage, StoredTensor, UnpickleError, unpickle

_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, lengths of name and extra field
_SAFE = "take the checkpoint in safetensors, or from someone you trust; nothing of it has been run"


@dataclasses.dataclass(frozen=True)
class StridedEntry(Entry):
    """A tensor in a file, with strides in elements; `bytes` is what it spans."""

    strides: tuple[int, ...]

    def view(self, data: np.ndarray) -> np.ndarray:
        """As `Entry.view`."""
        dtype = storage_dtype(self.dtype)
        flat = data[self.start : self.start + self.bytes].view(dtype)
        strides = [stride * dtype.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


def read_torch(path: Path) -> dict[str, Entry]:
    """The tensors of a state dictionary in a file, by name.

    Raises TensorFileError where the file is damaged, of another format, or asks for more than tensors.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\3\4"
            file.seek(0)
            value, places = _read_zip(file) if zipped else _read_legacy(file)
        return _entries(value, places)
    except UnpickleError as error:
        raise TensorFileError(f"{path} cannot be read as a state dictionary", str(error), _SAFE) from error
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, struct.error) as error:
        fix = "download it again, or convert it to safetensors"
        raise TensorFileError(f"{path} is no readable PyTorch file", str(error), fix) from error


Places = Mapping[str, tuple[int, int]]
"""Where storages are: first byte and length."""


def _read_zip(file: BinaryIO) -> tuple[Any, Places]:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        (pickle,) = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1] or [""]
        if not pickle:
            raise ValueError("it is a zip file without data.pkl")
        prefix = pickle.removesuffix("data.pkl")
        order = prefix + "byteorder"
        stored = {name: _member(file, member) for name, member in members.items() if name.startswith(prefix)}
        if order in members and archive.read(order) != b"little":
            raise ValueError("it was written on a big-endian machine")
        places = {name.removeprefix(prefix + "data/"): place for name, place in stored.items()}
        file.seek(stored[pickle][0])
        return unpickle(file), places


def _member(file: BinaryIO, member: zipfile.ZipInfo) -> tuple[int, int]:
    """First byte and length of a member, which must be stored as it is."""
    size = member.file_size
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != size or member.flag_bits & 1:
        raise ValueError(f"{member.filename!r:.80} is compressed or encrypted")
    file.seek(member.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = member.header_offset + _LOCAL_HEADER.size + name + extra
    if signature != b"PK\3\4" or start + size > _size(file):
        raise ValueError(f"{member.filename!r:.80} lies outside of the file")
    return start, size


def _read_legacy(file: BinaryIO) -> tuple[Any, Places]:
    try:
        magic = unpickle(file)
    except UnpickleError as error:
        raise ValueError("it is neither a zip file nor a pickle") from error
    if magic != _MAGIC:
        raise ValueError("it is a pickle, but not of torch.save")
    unpickle(file)  # version of the protocol
    machine = unpickle(file)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("it was written on a big-endian machine")
    value = unpickle(file)
    keys = unpickle(file)
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in _tensors(value).values()}
    places = {}
    for key in keys if isinstance(keys, list) else ():
        (count,) = struct.unpack("<q", file.read(8))
        if not isinstance(key, str) or key not in dtypes or count < 0:
            raise ValueError("a storage is of no tensor, so that its size is not known")
        length = count * storage_dtype(dtypes[key] or "uint8").itemsize
        places[key] = file.tell(), length
        if file.seek(length, 1) > _size(file):
            raise ValueError("it is truncated")
    return value, places


def _size(file: BinaryIO) -> int:
    here = file.tell()
    size = file.seek(0, 2)
    file.seek(here)
    return size


def _tensors(value: Any) -> dict[str, StoredTensor]:
    """The tensors of a state dictionary; numbers and text beside them say nothing of the model."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not a dictionary of tensors")
    nested = [key for key, item in value.items() if isinstance(item, dict | list | tuple | Storage)]
    if nested:
        raise ValueError(f"{nested[0]!r:.80} is no tensor: this is a training checkpoint, or of another program")
    found = {str(key): item for key, item in value.items() if isinstance(item, StoredTensor)}
    if not found:
        raise ValueError("it holds no tensors")
    return found


def _entries(value: Any, places: Places) -> dict[str, Entry]:
    """Entries for all tensors, each within its storage."""
    entries: dict[str, Entry] = {}
    for name, tensor in _tensors(value).items():
        size = storage_dtype(tensor.dtype).itemsize
        count = math.prod(tensor.shape)
        spans = (
            sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)) + 1 if count else 0
        )
        if tensor.storage.key not in places:
            raise ValueError(f"the values of {name!r:.80} are missing")
        start, length = places[tensor.storage.key]
        # Strides of 0 would make any size out of a few bytes.
        if (tensor.offset + spans) * size > length or count * size > length:
            raise ValueError(f"{name!r:.80} reaches beyond its values: the file is truncated or damaged")
        begin = start + tensor.offset * size
        entries[name] = StridedEntry(tensor.dtype, tensor.shape, begin, spans * size, tensor.strides)
    return entries
