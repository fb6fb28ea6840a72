"""Safetensors files: aligned, readable by everyone, and every kind of damage named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.runtime.errors import TensorFileError
from heddle.runtime.safetensors import ALIGNMENT, WRITE_BYTES, chunks, layout, read_header, storage_dtype, write

DTYPES = ("float32", "float16", "bfloat16", "int32", "uint8", "int64", "bool")


def values(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    storage = storage_dtype(dtype)
    bits = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, (*shape, storage.itemsize), np.uint8)
    return bits.view(storage).reshape(shape)


Specs = list[tuple[str, str, tuple[int, ...]]]
SPECS: Specs = [
    ("a", "float32", (3, 5)),
    ("b.weight", "bfloat16", (7,)),
    ("scalar", "float16", ()),
    ("nothing", "float32", (0, 4)),
    ("c", "uint8", (65,)),
    ("d", "int64", (2, 1, 2)),
]


def save(path: Path, specs: Specs = SPECS) -> dict[str, np.ndarray]:
    arrays = {name: values(dtype, shape, i) for i, (name, dtype, shape) in enumerate(specs)}
    write(path, specs, arrays.__getitem__)
    return arrays


def test_written_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    arrays = save(file)
    entries = read_header(file)
    assert list(entries) == list(arrays)  # in order of position, without padding
    data = np.frombuffer(file.read_bytes(), np.uint8)
    for name, dtype, shape in SPECS:
        entry = entries[name]
        assert (entry.dtype, entry.shape) == (dtype, shape)
        assert entry.start % ALIGNMENT == 0
        assert entry.view(data).tobytes() == arrays[name].tobytes()


def test_opened_by_the_reference_implementation(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    arrays = save(file)
    with safetensors.safe_open(file, "numpy") as reader:
        assert {k for k in reader.keys() if not k.startswith("__pad.")} == set(arrays)  # noqa: SIM118 (not a dict)
        for name, dtype, _ in SPECS:
            found = reader.get_tensor(name)
            assert found.dtype.name == dtype
            assert found.tobytes() == arrays[name].tobytes()


def test_files_of_the_reference_implementation(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    arrays = {"b": values("float32", (3, 3)), "h": np.ones(5, ml_dtypes.bfloat16), "e": np.ones((0, 2), np.float16)}
    safetensors.numpy.save_file(arrays, file, metadata={"format": "np"})
    entries = read_header(file)
    data = np.frombuffer(file.read_bytes(), np.uint8)
    assert {name: entry.dtype for name, entry in entries.items()} == {"b": "float32", "h": "bfloat16", "e": "float16"}
    for name, array in arrays.items():
        assert entries[name].view(data).tobytes() == array.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 9), max_size=3)), max_size=8))
def test_any_file(tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, list[int]]]) -> None:
    file = tmp_path_factory.mktemp("any") / "x.safetensors"
    specs: Specs = [(f"t{i}", dtype, tuple(shape)) for i, (dtype, shape) in enumerate(drawn)]
    arrays = save(file, specs)
    assert {name: (e.dtype, e.shape) for name, e in read_header(file).items()} == {n: (d, s) for n, d, s in specs}
    assert all(entry.start % ALIGNMENT == 0 for entry in read_header(file).values())
    with safetensors.safe_open(file, "numpy") as reader:
        assert all(reader.get_tensor(name).tobytes() == array.tobytes() for name, array in arrays.items())


def test_the_artifacts_weights(tinydoc: Path) -> None:
    entries = read_header(tinydoc / "weights.safetensors")
    assert all(entry.start % ALIGNMENT == 0 for entry in entries.values())
    with safetensors.safe_open(tinydoc / "weights.safetensors", "numpy") as reader:
        assert set(entries) <= set(reader.keys())


def test_pieces_are_large_and_tensors_taken_one_at_a_time() -> None:
    specs: Specs = [(f"t{i}", "float32", (WRITE_BYTES // 8 + 3,)) for i in range(5)]
    asked: list[str] = []

    def produce(name: str) -> np.ndarray:
        asked.append(name)
        return np.full(specs[0][2], len(asked), np.float32)

    sizes = []
    for name, piece in chunks(specs, produce):
        sizes.append(len(piece))
        assert name == asked[-1]
    assert asked == [name for name, _, _ in specs]
    assert sizes[:-1] == [WRITE_BYTES] * (len(sizes) - 1)
    header, entries = layout(specs)
    assert sum(sizes) == len(header) + sum(entry.bytes for entry in entries.values())


def test_arrays_must_be_as_announced(tmp_path: Path) -> None:
    for wrong in (np.zeros((3, 5), np.float16), np.zeros((5, 3), np.float32)):
        with pytest.raises(ValueError, match=r"'a' was announced as float32\[3, 5\], but came as"):
            write(tmp_path / "x", [("a", "float32", (3, 5))], lambda name, wrong=wrong: wrong)
    bfloat16 = np.ones(3, ml_dtypes.bfloat16)
    write(tmp_path / "y", [("a", "bfloat16", (3,))], lambda name: bfloat16)
    with pytest.raises(ValueError, match="stands twice or is reserved"):
        layout([("a", "uint8", (1,)), ("a", "uint8", (1,))])
    with pytest.raises(ValueError, match="stands twice or is reserved"):
        layout([("__pad.7", "uint8", (1,))])
    with pytest.raises(ValueError, match="unknown tensor type 'float8'; known are"):
        layout([("a", "float8", (1,))])


# ------------------------------------------------------------------------------------------------------------- damage
def refused(file: Path) -> str:
    with pytest.raises(TensorFileError) as caught:
        read_header(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save(file)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert ("is not a safetensors file" if length < 8 else "is truncated") in refused(file)
    file.write_bytes(whole + b"\0")
    assert "is longer than its header says" in refused(file)


def with_header(file: Path, header: Any, payload: int) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(payload))
    return file


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"x": tensor(dtype="F13")}, "'F13' is none of F64, F32"),
        ({"x": tensor(dtype=["F32"])}, "'x'"),
        ({"x": tensor(shape=[3])}, "does not take 8 bytes at 0"),
        ({"x": tensor(shape=[-1, -2])}, "must be counts"),
        ({"x": tensor(shape=[2.0])}, "must be counts"),
        ({"x": tensor(shape=[True, 2])}, "must be counts"),
        ({"x": tensor(shape=["2"])}, "must be counts"),
        ({"x": tensor(shape=2)}, "'x'"),
        ({"x": tensor(offsets=[0, 8.0])}, "must be counts"),
        ({"x": tensor(offsets=[8])}, "'x'"),
        ({"x": tensor(shape=[1 << 32, 1 << 32], offsets=[0, 0]), "y": tensor()}, "does not take 0 bytes"),
        ({"x": {"dtype": "F32"}}, "'shape'"),
        ({"x": 7}, "'x'"),
        ({"x": tensor(), "y": tensor()}, "tensor 'y' starts at"),
        ({"x": tensor(shape=[1], offsets=[4, 8])}, "tensor 'x' starts at"),
        (b"[1, 2]", "not an object"),
        (b'{"x": ', "corrupt header"),
        (b"\xff\xfe{}", "corrupt header"),
        (b"[" * 100_000, "corrupt header"),
    ],
)
def test_corrupt_headers(tmp_path: Path, header: Any, expected: str) -> None:
    text = refused(with_header(tmp_path / "x.safetensors", header, 8))
    assert "corrupt header" in text
    assert expected in text


def test_empty_tensors_stand_where_others_begin(tmp_path: Path) -> None:
    """Names in any order: an empty tensor and the one after it have the same start."""
    header = {"x": tensor(), "nothing": tensor(shape=[0], offsets=[0, 0]), "end": tensor(shape=[0], offsets=[8, 8])}
    assert set(read_header(with_header(tmp_path / "x.safetensors", header, 8))) == {"x", "nothing", "end"}


def test_not_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"PK\3\4" + bytes(range(256)))
    assert "is not a safetensors file" in refused(file)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255))
def test_any_byte_of_the_header(tmp_path_factory: pytest.TempPathFactory, position: int, value: int) -> None:
    """A damaged header is refused or still describes the whole file; nothing else is ever raised."""
    file = tmp_path_factory.mktemp("byte") / "x.safetensors"
    save(file)
    data = bytearray(file.read_bytes())
    data[position] = value
    file.write_bytes(data)
    try:
        entries = read_header(file)
    except TensorFileError:
        return
    whole = np.frombuffer(bytes(data), np.uint8)
    assert all(entry.view(whole).nbytes == entry.bytes for entry in entries.values())
