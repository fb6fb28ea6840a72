"""GGUF files: types against gguf-py's decoders, headers, and every kind of damage."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.models import ModelError
from heddle.models.readers.gguf import GgufSource, is_gguf
from heddle.models.readers.gguf.header import read_header
from heddle.models.readers.gguf.types import TYPES
from heddle.models.source import open_source
from tests.gguf_tools import METADATA, small

T = GGMLQuantizationType
READABLE = [kind for kind, block in TYPES.items() if block.decode]
FACTORS = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0"), (0,))}
"""Where the float16 factors of a block begin; at 0 and 2 in the other types."""


# --------------------------------------------------------------------------------------------------------------- types
def blocks_of(kind: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random bytes of a type as [rows, bytes]; their float16 factors are finite."""
    block = TYPES[kind]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, columns // block.elements, block.bytes), np.uint8)
    for start in FACTORS.get(block.name, (0, 2)):
        factors = rng.standard_normal(raw.shape[:2]).astype(np.float16) / 64
        raw[..., start : start + 2] = factors[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def test_types_are_those_of_ggml() -> None:
    assert {T(kind): (block.elements, block.bytes) for kind, block in TYPES.items()} == GGML_QUANT_SIZES
    assert all(T(kind).name == block.name for kind, block in TYPES.items())
    wanted = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K"
    assert [TYPES[kind].name for kind in READABLE] == wanted.split()


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: TYPES[kind].name)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 4), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_values_are_bit_equal_to_the_reference_decoders(kind: int, rows: int, blocks: int, seed: int) -> None:
    block = TYPES[kind]
    raw = blocks_of(kind, rows, max(block.elements * blocks, 32), seed)
    expected = dequantize(raw, T(kind))
    assert block.decode is not None
    found = block.decode(raw.reshape(rows, -1, block.bytes))
    assert found.dequantize().dtype == np.float32
    assert np.array_equal(found.dequantize().view(np.uint32), expected.view(np.uint32))
    index = np.random.default_rng(seed).permutation(rows)
    assert np.array_equal(found.rows(index).dequantize(), expected[index])


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: TYPES[kind].name)
def test_what_a_layout_holds_fits_it(kind: int) -> None:
    """Codes, zero and groups are those of the weight format that `holds` names."""
    from heddle.schedules.layouts.scheme import weight_format

    block = TYPES[kind]
    assert block.decode is not None
    assert block.info is not None
    found = block.decode(blocks_of(kind, 3, 512).reshape(3, -1, block.bytes))
    assert bool(block.info.holds) != bool(block.info.suggests)
    layout = weight_format(block.info.holds or block.info.suggests)
    if block.info.holds:
        assert found.group == layout.group
        assert found.codes.max() < 1 << layout.bits
        assert (found.mins is not None) == block.info.holds.endswith("-min")
        assert found.zeros == (0 if found.mins is not None else layout.zero)


# --------------------------------------------------------------------------------------------------------------- files
def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_metadata_and_tensors(tmp_path: Path) -> None:
    header = read_header(small(tmp_path / "a.gguf", x__flag=True, x__number=-0.5, general__alignment=64))
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["x.flag"] is True
    assert header.metadata["x.number"] == -0.5
    assert header.metadata["llama.list"].tolist() == [1, 2, 3]
    assert list(header.metadata["llama.names"]) == ["a", "", "ü"]
    assert (header.metadata["llama.names"][2], len(header.metadata["llama.names"])) == ("ü", 3)
    entry = header.tensors["token_embd.weight"]
    assert (entry.shape, entry.start % 64) == ((2, 32), 0)
    assert np.array_equal(header.bytes_of(entry).view(np.float32), np.arange(64))
    assert not header.bytes_of(entry).flags.owndata


def test_version_2_is_read_and_others_are_named(tmp_path: Path) -> None:
    file = small(tmp_path / "a.gguf")
    data = bytearray(file.read_bytes())
    data[4] = 2
    file.write_bytes(data)
    assert len(read_header(file).tensors) == 2
    data[4] = 1
    file.write_bytes(data)
    assert "version 1" in refused(file)
    assert "supported: versions 2 and 3" in refused(file)
    data[4:8] = b"\0\0\0\3"
    file.write_bytes(data)
    assert "big-endian" in refused(file)
    file.write_bytes(b"GGML" + data[4:])
    assert "begins with b'GGML', not b'GGUF'" in refused(file)
    file.write_bytes(b"")
    assert "is empty" in refused(file)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    file = small(tmp_path / "a.gguf")
    whole = file.read_bytes()
    header = read_header(file)
    last = max(entry.start + entry.bytes for entry in header.tensors.values())
    for length in [*range(header.end), *range(header.end, last, 11)]:
        file.write_bytes(whole[:length])
        text = refused(file)
        assert any(word in text for word in ("truncated", "is not a GGUF file", "is empty"))
    file.write_bytes(whole[:last])  # without the padding at the end
    assert len(read_header(file).tensors) == 2


def crafted(path: Path, pairs: bytes = b"", tensors: bytes = b"", counts: tuple[int, int] | None = None) -> Path:
    """A file by hand: `pairs` and `tensors` are one entry each where they are not empty."""
    tensor_count, pair_count = counts or (bool(tensors), bool(pairs))
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensor_count, pair_count) + pairs + tensors + bytes(4096))
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def record(name: str, shape: tuple[int, ...], kind: int, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("pairs", "tensors", "expected"),
    [
        (text("k") + struct.pack("<I", 99), b"", "unknown value type 99"),
        (text("k") + struct.pack("<IIQ", 9, 9, 1), b"", "arrays hold numbers or strings"),
        (text("k") + struct.pack("<IIQ", 9, 4, 1 << 60), b"", "truncated or corrupt"),
        (text("k") + struct.pack("<IIQ", 9, 8, 1 << 60), b"", "truncated or corrupt"),
        (text("k") + struct.pack("<IIQQ", 9, 8, 2, 1 << 63), b"", "truncated or corrupt"),
        (text("k") + struct.pack("<IQ", 8, 1 << 62), b"", "truncated or corrupt"),
        (struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<IB", 0, 1), b"", "key 0 at byte"),
        (text("general.alignment") + struct.pack("<II", 4, 33), b"", "no power of two"),
        (b"", record("t", (1, 1, 1, 1, 1), 0), "5 dimensions"),
        (b"", record("t", (33,), 2), "rows of 33, and Q4_0 comes in 32"),
        (b"", record("t", (8,), 0, 4), "is at 4, not at 0"),
        (b"", record("t", (1 << 40, 1 << 40), 0), "truncated"),
        (b"", struct.pack("<Q", 1 << 63), "truncated or corrupt"),
    ],
)
def test_corrupt_headers_say_what_is_wrong(tmp_path: Path, pairs: bytes, tensors: bytes, expected: str) -> None:
    assert expected in refused(crafted(tmp_path / "a.gguf", pairs, tensors))


def test_counts_and_repeats(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    assert "take" in refused(crafted(file, counts=(1 << 50, 0)))
    assert "take" in refused(crafted(file, counts=(0, 1 << 63)))
    pair = text("k") + struct.pack("<IB", 0, 1)
    assert "the key 'k' stands twice" in refused(crafted(file, pair * 2, counts=(0, 2)))
    tensor = record("t", (8,), 0)
    assert "tensor 't' stands twice" in refused(crafted(file, b"", tensor * 2, counts=(2, 0)))


def test_types_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    for key, value in METADATA.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(f"llama.{key}", value)
    writer.add_tensor("token_embd.weight", np.zeros((2, 256), np.float32))
    for i, kind in enumerate((T.IQ2_XS, T.IQ2_XS, T.MXFP4, T.F64)):
        elements, size = GGML_QUANT_SIZES[kind]
        writer.add_tensor(f"blk.{i}.attn_q.weight", np.zeros((2, 256 // elements * size), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = GgufSource(tmp_path / "a.gguf")
    assert source.config()["vocab_size"] == 2  # the config does not depend on them
    with pytest.raises(ModelError) as caught:
        source.checkpoint()
    message = str(caught.value)
    assert "has 3 problems" in message
    assert "2 tensors are of the type IQ2_XS, which is not supported: such as blk.0.attn_q.weight" in message
    assert "type MXFP4" in message
    assert "take a file of other types, such as Q4_K_M or Q8_0; readable: F32, F16, Q4_0" in message
    unknown = crafted(
        tmp_path / "b.gguf", text("general.architecture") + struct.pack("<I", 8) + text("llama"), record("x", (8,), 77)
    )
    with pytest.raises(ModelError, match="metadata key"):
        GgufSource(unknown).checkpoint()


def test_headers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path / "a.gguf")
    end = read_header(path).end
    monkeypatch.setattr(f"{read_header.__module__}.MAX_HEADER", end)
    read_header(path)
    monkeypatch.setattr(f"{read_header.__module__}.MAX_HEADER", end - 1)
    with pytest.raises(ModelError, match=f"ends more than {end - 1} bytes into the file"):
        read_header(path)


def test_what_is_gguf(tmp_path: Path) -> None:
    file = small(tmp_path / "model.gguf")
    (tmp_path / "renamed").write_bytes(file.read_bytes())
    assert all(is_gguf(path) for path in (file, tmp_path / "renamed", tmp_path))
    assert isinstance(open_source(tmp_path / "renamed"), GgufSource)
    assert GgufSource(tmp_path).checkpoint().read("model.embed_tokens.weight").shape == (2, 32)
    small(tmp_path / "other.gguf")
    with pytest.raises(ModelError, match="holds 2 models in GGUF"):
        GgufSource(tmp_path).config()
    (tmp_path / "config.json").write_text("{}")
    assert not is_gguf(tmp_path)
    assert not is_gguf(tmp_path / "config.json")
    with pytest.raises(ModelError, match="the path does not exist"):
        GgufSource(tmp_path / "missing.gguf").config()
