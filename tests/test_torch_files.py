"""PyTorch files, read without PyTorch: the values that torch saved, and refusals of whatever is not a state dictionary."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heddle.models import ModelError, open_checkpoint
from heddle.models.readers.torch_file import read_torch
from heddle.models.readers.unpickle import UnpickleError, unpickle
from heddle.runtime.errors import TensorFileError

DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


def state() -> dict[str, Any]:
    """Tensors of all types and views of all kinds, and things beside them that say nothing of a model."""
    torch.manual_seed(0)
    base = torch.randn(16, 12)
    found: dict[str, Any] = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in DTYPES}
    found |= {"base": base, "transposed": base.t(), "strided": base[3:9, ::3], "row": base[5], "shared": base}
    found |= {
        "parameter": torch.nn.Parameter(base[:2].clone()),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
    }
    return found | {"step": 3, "note": "text", "nothing": None}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_values_are_those_of_torch(tmp_path: Path, zipped: bool) -> None:
    saved = state()
    if zipped:
        saved |= {name: torch.ones(3).to(getattr(torch, name)) for name in ("float8_e4m3fn", "float8_e5m2", "uint16")}
    module = torch.nn.Linear(2, 2).state_dict()  # an OrderedDict with attributes
    module.update(saved)
    torch.save(module, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(tmp_path)
    tensors = {name: value for name, value in module.items() if isinstance(value, torch.Tensor)}
    assert set(checkpoint.tensors) == set(tensors)
    for name, tensor in tensors.items():
        info, array = checkpoint.tensors[name], checkpoint.read(name)
        assert info.dtype == str(tensor.dtype).removeprefix("torch.")
        assert array.shape == info.shape == tuple(tensor.shape)
        np.testing.assert_array_equal(array.astype(np.float64), tensor.detach().double().numpy(), name)
        assert not array.flags.writeable


def test_shards_with_and_without_an_index(tmp_path: Path) -> None:
    parts: list[dict[str, Any]] = [{"a": torch.ones(2)}, {"b": torch.zeros(3)}]
    names = [f"pytorch_model-{i:05d}-of-00002.bin" for i in (1, 2)]
    for name, part in zip(names, parts, strict=True):
        torch.save(part, tmp_path / name)
    assert set(open_checkpoint(tmp_path).tensors) == {"a", "b"}
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert open_checkpoint(tmp_path).read("b").shape == (3,)
    (tmp_path / names[1]).unlink()
    with pytest.raises(ModelError, match=f'shard "{names[1]}" is missing'):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(ModelError, match=f'shard "{names[1]}" is missing'):
        open_checkpoint(tmp_path)
    torch.save(parts[0], tmp_path / names[1])
    with pytest.raises(ModelError, match='"a" is in 2 shards'):
        open_checkpoint(tmp_path)
    torch.save(parts[0], tmp_path / "other-00001-of-00001.bin")
    with pytest.raises(ModelError, match="several sets of shards"):
        open_checkpoint(tmp_path)


def save(path: Path, value: Any, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


class Evil:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Evil(os.system, "touch executed"), "system"),
        (Evil(eval, "open('executed', 'w')"), r"__builtin__\.eval"),
        (Evil(__import__, "os"), r"__builtin__\.__import__"),
        (Evil(getattr, "x", "upper"), r"__builtin__\.getattr"),
        (Evil(io.open, "executed", "w"), r"open"),
        (collections.Counter("ab"), "collections.Counter"),
        (np.ones(3), r"numpy"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (torch.ones(2).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.ones(2, dtype=torch.complex64), "ComplexFloatStorage"),
        ({1, 2}, r"__builtin__\.set"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_tensor_is_refused_by_name(
    tmp_path: Path, value: Any, named: str, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = save(tmp_path / "pytorch_model.bin", {"w": torch.ones(2), "x": value}, zipped)
    with pytest.raises(TensorFileError, match=named) as caught:
        read_torch(file)
    assert "safetensors" in caught.value.fix
    assert not (tmp_path / "executed").exists()


MARK, STOP = b"(", b"."
ATTACKS = {
    "INST": b"(S'ls'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'ls'\no.",
    "a dotted name": b"ccollections\nOrderedDict.__init__.__globals__\n)R.",
    "dunder of an allowed module": b"ctorch._utils\n__builtins__\n.",
    "a call of a dtype": b"ctorch\nFloatStorage\n)R.",
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81.",
    "BUILD on a tensor's type": b"ctorch\nFloatStorage\n}b.",
    "EXT": b"\x82\x01.",
    "nested loads": b"ctorch.storage\n_load_from_bytes\nC\x01a\x85R.",
    "a persistent id of another kind": b"(U\x06module\x85Q.",
    "memo that is not there": b"h\x05.",
    "empty stack": b"R.",
    "no mark": b"t.",
    "no end": b"}",
    "two values": b"NN.",
    "a key that is a tuple": b"}" + b"(" * 5000 + b"t" * 5000 + b"Ns.",
    "a length beyond the end": b"X\xff\xff\xff\x7fab.",
    "a negative length": b"T\xff\xff\xff\xffab.",
    "a long number": b"L" + b"9" * 6000 + b"L\n.",
    "an odd number of items": b"}(Nu.",
    "append to a tuple": b")Na.",
    "text that is no UTF-8": b"X\x01\x00\x00\x00\xff.",
}


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in ATTACKS.items()])
def test_pickles_that_no_tensor_needs(data: bytes) -> None:
    with pytest.raises(UnpickleError, match="."):
        unpickle(io.BytesIO(data))


def test_deep_and_long_pickles_end() -> None:
    assert unpickle(io.BytesIO(b"Nr\xff\xff\xff\x7f.")) is None, "a huge memo index is no length"
    assert unpickle(io.BytesIO(b"]" * 100_000 + b"a" * 99_999 + b".")), "lists within lists are no recursion"
    with pytest.raises(UnpickleError):
        unpickle(io.BytesIO(b"(" * 100_000))


def tensor_pickle(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], key: str = "0", count: int = 4
) -> bytes:
    """The data.pkl of {"w": a view of storage `key`}."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return MARK + b"".join(map(number, values)) + b"t"

    storage = b"(U\x07storagectorch\nFloatStorage\nU\x01" + key.encode() + b"U\x03cpu" + number(count) + b"tQ"
    tensor = b"(" + storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89}t"
    return b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n" + tensor + b"Rs."


def zip_of(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"m/{name}", data)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        (0, (5,), (1,)),
        (2, (3,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (1 << 40, 1 << 40), (0, 0)),
        (0, (1 << 62, 4), (1, 1)),
        (1 << 62, (1,), (1,)),
        (-1, (2,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (2,), (1,), "9"),
    ],
    ids=str,
)
def test_views_beyond_their_values_are_refused(tmp_path: Path, arguments: tuple[Any, ...]) -> None:
    good = zip_of(tmp_path / "good.bin", {"data.pkl": tensor_pickle(0, (2, 2), (2, 1)), "data/0": b"\1" * 16})
    assert read_torch(good)["w"].shape == (2, 2)
    bad = zip_of(tmp_path / "bad.bin", {"data.pkl": tensor_pickle(*arguments), "data/0": b"\1" * 16})
    with pytest.raises(TensorFileError):
        read_torch(bad)


def test_many_small_objects_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte of a pickle can make an object of 64."""
    monkeypatch.setattr(f"{unpickle.__module__}.MAX_STEPS", 1000)
    assert unpickle(io.BytesIO(b"\x80\x02(" + b"}" * 900 + b"l.")) == [{}] * 900
    with pytest.raises(UnpickleError, match="more than 1000 opcodes"):
        unpickle(io.BytesIO(b"\x80\x02(" + b"}" * 1000 + b"l."))


def test_files_of_other_kinds(tmp_path: Path) -> None:
    data = {"data.pkl": tensor_pickle(0, (2, 2), (2, 1)), "data/0": b"\1" * 16}
    cases = {
        "compressed": zip_of(tmp_path / "a.bin", data, zipfile.ZIP_DEFLATED),
        "big-endian": zip_of(tmp_path / "b.bin", {**data, "byteorder": b"big"}),
        "without data.pkl": zip_of(tmp_path / "c.bin", {"x": b""}),
        "neither a zip file": tmp_path / "d.bin",
        "not of torch.save": tmp_path / "e.bin",
        "training checkpoint": save(tmp_path / "f.bin", {"model": {"w": torch.ones(2)}, "step": 1}),
        "no tensors": save(tmp_path / "g.bin", {"step": 1}),
        "not a dictionary": save(tmp_path / "h.bin", [torch.ones(2)]),
    }
    cases["neither a zip file"].write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    cases["not of torch.save"].write_bytes(pickle.dumps({"a": 1}))
    for why, file in cases.items():
        with pytest.raises(TensorFileError, match=why):
            read_torch(file)


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Truncated, overwritten and spliced copies."""
    rng = random.Random(seed)
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(len(copy))
            kind = rng.randrange(4)
            if kind == 0:
                copy[at] = rng.randrange(256)
            elif kind == 1:
                copy[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"R(t."])
            elif kind == 2:
                del copy[at:]
                copy = copy or bytearray(b"\0")
            else:
                copy[at:at] = copy[rng.randrange(len(copy)) :][:20]
        yield bytes(copy)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files_never_crash_nor_take_memory(tmp_path: Path, zipped: bool, count: int) -> None:
    data = save(tmp_path / "good.bin", {f"layer.{i}": torch.ones(16, 8) for i in range(20)}, zipped).read_bytes()
    file = tmp_path / "bad.bin"
    refused = 0
    "".encode("cp437")  # zipfile needs this codec for some names; importing it takes 3 MB, once
    tracemalloc.start()
    for bad in mutations(data, count, seed=count):
        file.write_bytes(bad)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            entries = read_torch(file)
        except TensorFileError:
            refused += 1
        else:
            for entry in entries.values():
                assert entry.view(np.frombuffer(bad, np.uint8)).shape == entry.shape
        assert tracemalloc.get_traced_memory()[1] - before < 2 * len(data) + 500_000
    tracemalloc.stop()
    assert refused > count // 10
