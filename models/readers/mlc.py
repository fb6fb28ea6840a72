"""Directories of MLC LLM: mlc-chat-config.json, and tensors in raw shards that tensor-cache.json lists.

Group quantization (q4f16_1 and its kind) keeps `q_weight` uint32 [N, 4 ceil(K / 32)], 8 codes of 0 to 14 in a word, the lowest
bits first, and `q_scale` [N, ceil(K / 32)]; w = (code - 7) * scale. Projections of one input are fused, and Gemma's norm weights
have 1 added. Records of format f32-to-bf16 hold float32 tensors as bfloat16.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.safetensors import Entry, storage_dtype
from ..checkpoint import Checkpoint
from ..config import RawConfig, read_object
from ..problems import ModelError, Problem, error, raise_errors
from ..weights import TensorInfo, TensorSource
from .mlc_names import FAMILIES, Family, hf_config, hf_parts
from .quantized import QuantizedCheckpoint, StoredMatrix, integer_info, integer_tensor, unpack_bits

CONFIG = "mlc-chat-config.json"
CACHES = ("tensor-cache.json", "ndarray-cache.json")  # the second is the older name

GROUP, ZERO = 32, 7
QUANTIZATIONS = {
    "q0f32": "float32",
    "q0f16": "float16",
    "q0bf16": "bfloat16",
    "q4f32_1": "float32",
    "q4f16_1": "float16",
    "q4bf16_1": "bfloat16",
    "q4f16_2": "float16",
}
"""The type of the floats by `quantization`. Those that end with _0 keep matrices transposed and are not among them."""


@dataclasses.dataclass(frozen=True)
class _Shard:
    file: Path
    bytes: int
    md5: str
    entries: Mapping[str, Entry]


def is_mlc(path: Path) -> bool:
    """Whether `path` is a directory of MLC LLM, or its config."""
    return path.name == CONFIG or (path / CONFIG).is_file()


def read_config(directory: Path) -> RawConfig:
    """mlc-chat-config.json in the form of Hugging Face's config.json. ModelError lists what is not known."""
    raw = read_object(directory / CONFIG, directory)
    model = raw.get("model_config")
    problems = []
    if str(raw.get("model_type")) not in FAMILIES:
        known = f"known: {', '.join(FAMILIES)}"
        problems.append(error(f"MLC model_type {raw.get('model_type')!r:.40} cannot be read", known))
    if str(raw.get("quantization")) not in QUANTIZATIONS:
        what = f"MLC quantization {raw.get('quantization')!r:.40} cannot be read"
        problems.append(error(what, f"known: {', '.join(QUANTIZATIONS)}", "convert the model with one of these"))
    if not isinstance(model, dict):
        problems.append(error(f"{CONFIG} has no model_config", "", "convert the model again"))
    raise_errors(str(directory), problems)
    return hf_config(raw, QUANTIZATIONS[raw["quantization"]])


def open_mlc(directory: Path) -> TensorSource:
    """The tensors under Hugging Face's names, fused ones cut. Headers only are read; ModelError lists all problems."""
    config = read_config(directory)
    family = FAMILIES[config["model_type"]]
    shards = _shards(directory)
    base = Checkpoint(directory, {shard.file: shard.entries for shard in shards})
    matrices: dict[str, StoredMatrix] = {}
    problems: list[Problem] = []
    for name in base.tensors:
        if name.endswith(".q_scale"):
            continue
        try:
            whole = _matrix(base, name, family, config["dtype"])
            parts = hf_parts(_plain(name), family, config, math.prod(whole.info.shape[:1]))
            matrices |= {part: _cut(whole, rows) for part, rows in parts.items()}
        except (KeyError, TypeError, ValueError) as exception:  # a key that the config lacks, or of another type
            problems.append(error(f'"{name}" does not fit', str(exception), "convert the model again"))
    raise_errors(str(directory), problems)
    return QuantizedCheckpoint(base, matrices, how=json.dumps(config, sort_keys=True))


def verify(directory: Path) -> list[Problem]:
    """Shards whose bytes are not those of their md5 sums."""
    return [
        error(f"{shard.file.name} is damaged", "its md5 sum is another", "download it again")
        for shard in _shards(directory)
        if shard.md5 and hashlib.md5(np.memmap(shard.file, np.uint8, mode="r").data).hexdigest() != shard.md5
    ]


def _plain(name: str) -> str:
    return re.sub(r"\.q_weight$", ".weight", name)


def _matrix(base: TensorSource, name: str, family: Family, dtype: str) -> StoredMatrix:
    """A parameter of MLC's model; ValueError where its tensors do not fit together."""
    if name.endswith(".q_weight"):
        return _quantized(base, name, dtype)
    info = base.tensors[name]
    if family.plus_one and re.search(family.plus_one, name):
        return StoredMatrix(
            TensorInfo("float32", info.shape), (name,), lambda: base.read(name).astype(np.float32) - np.float32(1)
        )
    return StoredMatrix(info, (name,), lambda: base.read(name))


def _quantized(base: TensorSource, name: str, dtype: str) -> StoredMatrix:
    scale_name = name.removesuffix("q_weight") + "q_scale"
    if scale_name not in base.tensors:
        raise ValueError("it has no q_scale")
    stored, scales = base.tensors[name], base.tensors[scale_name].shape
    rows, words = stored.shape if len(stored.shape) == 2 else (0, 0)
    if stored.dtype != "uint32" or not words or scales != (rows, words * 8 // GROUP):
        raise ValueError(f"words {stored.dtype} {[*stored.shape]} do not go with scales {[*scales]}")
    columns = words * 8  # where K is no multiple of 32 the rest is padding, which the config's shape shows
    info = integer_info("MLC int4 g32", dtype, (rows, columns), 4, GROUP, symmetric=True)

    def decode() -> Any:
        return integer_tensor(unpack_bits(base.read(name), 4), base.read(scale_name), ZERO, dtype)

    return StoredMatrix(info, (name, scale_name), decode)


def _cut(whole: StoredMatrix, rows: slice) -> StoredMatrix:
    """Some rows of a fused parameter."""
    count = rows.stop - rows.start
    if count == math.prod(whole.info.shape[:1]):
        return whole

    def decode() -> Any:
        value = whole.decode()
        return value[rows] if isinstance(value, np.ndarray) else value.rows(rows)

    info = dataclasses.replace(whole.info, shape=(count, *whole.info.shape[1:]))
    return StoredMatrix(info, whole.tensors, decode)


def _shards(directory: Path) -> list[_Shard]:
    """The shards that the cache lists, each of its size and with all tensors inside; ModelError lists what is wrong."""
    cache = next((directory / name for name in CACHES if (directory / name).is_file()), None)
    if cache is None:
        why = f"the directory has neither {' nor '.join(CACHES)}"
        raise ModelError(str(directory), [error("no weights", why, "download them")])
    records = read_object(cache, directory).get("records")
    shards, problems, seen = [], [], set[str]()
    for record in records if isinstance(records, list) else ():
        try:
            shard = _shard(directory, record)
            if twice := seen & shard.entries.keys():
                raise ValueError(f"{min(twice)!r:.80} is in several shards")
            seen |= shard.entries.keys()
            shards.append(shard)
        except (KeyError, TypeError, ValueError) as exception:
            what = f"{record.get('dataPath') if isinstance(record, dict) else record!r:.80} cannot be read"
            problems.append(error(what, str(exception), "download it again"))
    if not shards and not problems:
        problems.append(error(f"{cache.name} lists no shards", "", "download it again"))
    raise_errors(str(directory), problems)
    return shards


def _shard(directory: Path, record: Mapping[str, Any]) -> _Shard:
    name, size = record["dataPath"], record["nbytes"]
    if type(name) is not str or Path(name).name != name or record["format"] != "raw-shard":
        raise ValueError("it is no raw shard in this directory")
    file = directory / name
    if not file.is_file():
        raise ValueError("the file is missing")
    if file.stat().st_size != size:
        raise ValueError(f"it has {file.stat().st_size} bytes, and should have {size}: it is truncated or another file")
    entries = {str(item["name"]): _entry(item, size) for item in record["records"]}
    return _Shard(file, size, str(record.get("md5sum") or ""), entries)


def _entry(item: Mapping[str, Any], size: int) -> Entry:
    dtype, shape, start, length = item["dtype"], item["shape"], item["byteOffset"], item["nbytes"]
    if item["format"] not in ("raw", "f32-to-bf16"):
        raise ValueError(f"{item['name']!r:.80} is in the unknown format {item['format']!r:.40}")
    if item["format"] == "f32-to-bf16" and dtype == "float32":
        dtype = "bfloat16"
    if any(type(number) is not int or number < 0 for number in (*shape, start, length)):
        raise ValueError(f"{item['name']!r:.80}: shape, offset and length must be counts")
    count = 1
    for number in shape:
        count *= number
    if count * storage_dtype(dtype).itemsize != length or start + length > size:
        raise ValueError(f"{item['name']!r:.80} of {dtype}{shape} does not take {length} bytes at {start}")
    return Entry(dtype, tuple(shape), start, length)
