"""Checkpoints with 8-bit floats (OCP E4M3 and E5M2): one scale per tensor, per output channel, or per block.

DeepSeek's and Qwen's have `weight_scale_inv` for each block of `weight_block_size`, FBGEMM's and others `weight_scale`, a number
or [N, 1]. Both are factors: weight = float8 * scale, multiplied in float32 and rounded to the type of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ..problems import Problem, error
from ..quant_tensor import NUMPY_DTYPES, QuantInfo
from ..weights import FLOAT_DTYPES, TensorInfo, TensorSource
from .quantized import StoredMatrix, nearest_format

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
_SCALES = ("weight_scale_inv", "weight_scale")

Found = tuple[dict[str, StoredMatrix], list[Problem]]


def float8(config: Mapping[str, Any], base: TensorSource, dtype: str) -> Found:
    """The matrices of an FP8 checkpoint, decoded to `dtype`, and what is wrong with them."""
    block = config.get("weight_block_size")
    problems = []
    if block is not None and not (isinstance(block, list) and len(block) == 2 and all(map(_is_size, block))):
        problems.append(error(f"weight_block_size is {block!r:.60}", "it must be two positive numbers"))
    if (algorithm := config.get("quant_algo", "FP8")) != "FP8":
        problems.append(error(f'weights quantized by "{algorithm}" cannot be read', "supported: FP8"))
    matrices: dict[str, StoredMatrix] = {}
    for name, info in {} if problems else base.tensors.items():
        site, _, part = name.rpartition(".")
        if part != "weight" or info.dtype not in FLOAT8:
            continue
        scales = [scale for scale in _SCALES if f"{site}.{scale}" in base.tensors]
        if len(scales) != 1:
            problems.append(error(f'"{name}" is {info.dtype} and has {len(scales)} scales', "it needs one"))
            continue
        matrix = float8_matrix(base, site, scales[0], tuple(block) if block else None, dtype)
        if isinstance(matrix, Problem):
            problems.append(matrix)
        else:
            matrices[name] = matrix
    return matrices, problems


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def float8_matrix(
    base: TensorSource, site: str, scale: str, block: tuple[int, ...] | None, dtype: str = ""
) -> StoredMatrix | Problem:
    """The matrix `site`.weight with its scale, decoded to `dtype`, or to the type of the scale where that is empty."""
    weight, factor = base.tensors[f"{site}.weight"], base.tensors[f"{site}.{scale}"]
    if len(weight.shape) != 2:
        return error(f'"{site}.weight" has {len(weight.shape)} dimensions', "a matrix has 2")
    rows, columns = weight.shape
    sizes = _block_sizes(factor.shape, rows, columns, block)
    if sizes is None:
        why = f"{[*factor.shape]} scales for {[*weight.shape]}" + (f" in blocks of {[*block]}" if block else "")
        return error(f'"{site}.{scale}" does not go with the weight', why, "check weight_block_size in config.json")
    kind = {(rows, columns): "per tensor", (1, columns): "per channel"}.get(
        sizes, f"in blocks of {sizes[0]}x{sizes[1]}"
    )
    decoded = dtype or factor.dtype
    if decoded not in FLOAT_DTYPES:
        return error(f'"{site}.weight" would be decoded to {decoded:.40}', f"supported: {', '.join(FLOAT_DTYPES)}")
    suggests = nearest_format(columns, 0 if sizes[1] == columns else sizes[1])
    info = TensorInfo(decoded, (rows, columns), QuantInfo(f"FP8 {weight.dtype[7:11].upper()} {kind}", "", suggests))

    def decode() -> np.ndarray:
        bits = base.read(f"{site}.weight").view(np.uint8)
        values = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, weight.dtype)).astype(np.float32)[bits]
        factors = base.read(f"{site}.{scale}").astype(np.float32).reshape(-(-rows // sizes[0]), -1)
        for start, factor in zip(range(0, rows, sizes[0]), factors, strict=True):
            values[start : start + sizes[0]] *= np.repeat(factor, sizes[1])[:columns]
        return values.astype(NUMPY_DTYPES[decoded], copy=False)

    return StoredMatrix(info, (f"{site}.weight", f"{site}.{scale}"), decode)


def _block_sizes(
    shape: tuple[int, ...], rows: int, columns: int, block: tuple[int, ...] | None
) -> tuple[int, int] | None:
    """Rows and columns that share a scale; None where the scales' shape does not fit."""
    if block and shape == (-(-rows // block[0]), -(-columns // block[1])):
        return block[0], block[1]
    if shape in ((), (1,), (1, 1)):
        return rows, columns
    return (1, columns) if shape in ((rows,), (rows, 1)) else None
