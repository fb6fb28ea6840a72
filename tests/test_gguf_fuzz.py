"""Mutated GGUF and safetensors headers: an error that says what is wrong, or a model; no crash, no hang, little memory."""

from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from heddle.models import ModelError
from heddle.models.source import ModelSource, open_source
from tests.gguf_tools import METADATA, MODEL, T, tokenizer_metadata, write_gguf

SLACK = 256 << 10
"""Bytes that opening any file may take beside twice its size: objects for a few dozen tensors, and the interpreter's own."""

NUMBERS = (0, 1, 2, 31, 255, 256, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1)
TEXTS = (
    b"llama",
    b"gemma3",
    b"stablelm",
    b"\xff\xfe",
    b'"',
    b"}",
    b"[",
    b"-1",
    b"1e9",
    b"99999999999999999999",
    b"null",
)


def mutated(data: bytes, end: int, rng: random.Random) -> bytes:
    """`data` with a few changes in its first `end` bytes, and perhaps cut."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at, kind = rng.randrange(end), rng.randrange(8)
        if kind == 0:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        elif kind == 2:
            changed[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF)
        elif kind == 3:
            del changed[at : at + rng.choice((1, 4, 8, 100))]
        elif kind == 4:
            changed[at:at] = rng.choice(TEXTS)
        elif kind == 5:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 6:
            other, count = rng.randrange(end), rng.choice((4, 8, 24, 200))
            changed[at : at + count] = changed[other : other + count]
        else:
            changed = changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.3 else changed
        if not changed:
            break
    return bytes(changed)


def gguf_file(path: Path) -> tuple[Path, int]:
    """A small whole model with a tokenizer, and where its header ends."""
    rng = np.random.default_rng(0)
    tensors = {"token_embd.weight": (64, 256), "output_norm.weight": (256,), "rope_freqs.weight": (32,)}
    for i in range(2):
        tensors |= {f"blk.{i}.attn_{x}.weight": (size, 256) for x, size in (("q", 256), ("k", 128), ("v", 128))}
        tensors |= {f"blk.{i}.{x}_norm.weight": (256,) for x in ("attn", "ffn")}
    arrays = {name: rng.random(shape, np.float32) + 1 for name, shape in tensors.items()}
    kinds = (T.Q4_0, T.F16, T.Q8_0, T.Q5_1)
    tokenizer = {key.replace(".", "__"): value for key, value in tokenizer_metadata(MODEL).items()}
    for key in ("tokens", "token_type", "merges"):
        tokenizer[f"tokenizer__ggml__{key}"] = tokenizer[f"tokenizer__ggml__{key}"][:40]
    file = write_gguf(
        path,
        "llama",
        METADATA | {"block_count": 2, "rope.scaling.type": "none"},
        arrays,
        lambda name, array: T.F32 if array.ndim == 1 else kinds[len(name) % 4],
        **tokenizer,
        tokenizer__ggml__eos_token_id=2,
        tokenizer__chat_template="{{ messages }}",
        general__alignment=32,
    )
    from heddle.models.readers.gguf.header import read_header

    return file, read_header(file).end


def safetensors_file(path: Path) -> tuple[Path, int]:
    """The same in safetensors; config.json stays whole."""
    (path.parent / "config.json").write_text('{"model_type": "llama"}')
    save_file({f"t{i}": np.ones((i, 7), np.float16) for i in range(40)}, path)
    return path.parent, 8 + int.from_bytes(path.read_bytes()[:8], "little")


def opened(source: ModelSource, *, config: bool) -> None:
    if config:
        source.config()
    source.checkpoint()


def survives(file: Path, source: Callable[[], ModelSource], *, config: bool) -> str:
    """What became of one file. AssertionError where opening it took too much memory."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    refusal = ""
    try:
        opened(source(), config=config)
    except ModelError as error:
        refusal = str(error)
    assert len(refusal) < 20_000
    used, size = tracemalloc.get_traced_memory()[1] - before, file.stat().st_size
    assert used < 2 * size + SLACK, (used, size)
    if not refusal:
        checkpoint = source().checkpoint()
        for name in checkpoint.tensors:
            values = checkpoint.read(name)
            assert values.shape == checkpoint.tensors[name].shape
        with contextlib.suppress(ModelError):
            source().files()
    return "refused" if refusal else "opened"


def fuzzed(folder: Path, count: int, seed: int, kind: str) -> dict[str, int]:
    rng = random.Random(seed)
    good = folder / ("a.gguf" if kind == "gguf" else "model.safetensors")
    where, end = (gguf_file if kind == "gguf" else safetensors_file)(good)
    opened(open_source(where), config=kind == "gguf")
    data = good.read_bytes()
    outcomes = {"opened": 0, "refused": 0}
    tracemalloc.start()
    try:
        for number in range(count):
            good.write_bytes(mutated(data, end, rng))
            try:
                outcomes[survives(good, lambda: open_source(where), config=kind == "gguf")] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}, file {number}: {type(error).__name__}: {error}") from error
    finally:
        tracemalloc.stop()
    return outcomes


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_mutated_headers(kind: str, tmp_path: Path) -> None:
    outcomes = fuzzed(tmp_path, 500, 1, kind)
    assert min(outcomes.values()) > 10, outcomes  # mutations are neither harmless nor all alike


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
@pytest.mark.parametrize("seed", range(2, 7))
def test_many_mutated_headers(kind: str, seed: int, tmp_path: Path) -> None:
    """20,000 files over both formats."""
    assert sum(fuzzed(tmp_path, 2000, seed, kind).values()) == 2000
