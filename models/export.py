"""Writing any model that can be read as a Hugging Face directory: safetensors, config.json, tokenizer."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..runtime import safetensors
from ..runtime.errors import HeddleError
from .checkpoint import open_checkpoint
from .pooling import dense_folders
from .quant_tensor import NUMPY_DTYPES
from .source import ModelSource
from .weights import FLOAT_DTYPES, TensorSource

SHARD_BYTES = 5_000_000_000

Progress = Callable[[str, int, int], None]
Specs = list[tuple[str, str, tuple[int, ...]]]


def export_model(
    source: ModelSource,
    output: str | Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Write a model as a Hugging Face directory, quantized tensors dequantized, and return its path.

    Floats are stored in `dtype`, or each in its own. Files hold up to `shard_bytes`, with an index where there are several.
    Raises ModelError with all problems of the source, HeddleError where `output` has something in it already.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise HeddleError(f"{output} exists already", "nothing is overwritten", "give another directory")
    config = dict(source.config())
    checkpoint = source.checkpoint()
    files = source.files()
    specs = _specs(checkpoint, dtype)
    config.pop("torch_dtype", None)
    config["dtype"] = dtype or _main_dtype(specs)
    files["config.json"] = json.dumps(config, indent=2).encode()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        _write_weights(partial, specs, checkpoint, shard_bytes, progress)
        for folder in dense_folders(files):
            layer = open_checkpoint(source.directory / folder)
            _write_weights(partial / folder, _specs(layer, None), layer, shard_bytes, None)
        partial.chmod(0o755)
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def _specs(checkpoint: TensorSource, dtype: str | None) -> Specs:
    """What is written of a checkpoint, floats in `dtype` or each in its own."""
    return [
        (name, dtype if dtype and info.dtype in FLOAT_DTYPES else info.dtype, info.shape)
        for name, info in checkpoint.tensors.items()
    ]


def _main_dtype(specs: Specs) -> str:
    """The type that most values have."""
    counts = {name: sum(math.prod(shape) for _, dtype, shape in specs if dtype == name) for name in FLOAT_DTYPES}
    return max(counts, key=lambda name: counts[name])


def _write_weights(
    directory: Path, specs: Specs, checkpoint: TensorSource, shard_bytes: int, progress: Progress | None
) -> None:
    sizes = {name: math.prod(shape) * safetensors.storage_dtype(dtype).itemsize for name, dtype, shape in specs}
    dtypes = {name: dtype for name, dtype, _ in specs}
    total, done = sum(sizes.values()), 0

    def produce(name: str) -> np.ndarray:
        nonlocal done
        array = checkpoint.read(name)
        done += sizes[name]
        if progress is not None:
            progress("weights", done, total)
        return array.astype(NUMPY_DTYPES[dtypes[name]], copy=False) if dtypes[name] in NUMPY_DTYPES else array

    shards: list[Specs] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + sizes[spec[0]] > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += sizes[spec[0]]
    if len(shards) == 1:
        safetensors.write(directory / "model.safetensors", specs, produce, plain=True)
        return
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        safetensors.write(directory / name, shard, produce, plain=True)
        weight_map |= {spec[0]: name for spec in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
