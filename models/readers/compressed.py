"""Checkpoints of compressed-tensors (llm-compressor, vLLM): integers packed or in bytes, and 8-bit floats.

pack-quantized: `weight_packed` int32 [N, K * bits / 32], the lowest bits first, codes plus 2^(bits - 1); `weight_shape` [2];
`weight_zero_point` packed along the rows like that, int32 [N * bits / 32, G], or int8 [N, G]. int-quantized and naive-quantized:
`weight` int8 [N, K], `weight_zero_point` int8. float-quantized: `weight` float8_e4m3fn. `weight_scale` is [1], [N, 1], [N, G], or
one for each block; its type is that of the decoded weights. Everything but the sizes of blocks follows from the tensors, so that
targets of groups and lists of ignored modules need not be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..problems import Problem, error
from ..quant_tensor import QuantInfo, QuantTensor
from ..weights import TensorInfo, TensorSource
from .float8 import FLOAT8, float8_matrix
from .quantized import StoredMatrix, dequantize_columns, integer_info, integer_tensor, nearest_format, unpack_stream

_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision", "dense")
_PACKED_BITS = (2, 4, 8)  # versions of the package pack others differently

Found = tuple[dict[str, StoredMatrix], list[Problem]]


def compressed_tensors(config: Mapping[str, Any], base: TensorSource, dtype: str) -> Found:
    """The matrices of a compressed checkpoint under the names of plain ones, and what is wrong with them."""
    groups = [_object(group) for group in _object(config.get("config_groups")).values()]
    problems = _config_problems(config, groups)
    blocks = {str(size) for group in groups if (size := _object(group.get("weights")).get("block_structure"))}
    sizes = [
        tuple(map(int, re.findall(r"\d+", size))) for size in sorted(blocks)
    ]  # [128, 128], or "128x128" in old ones
    if len(sizes) > 1 or any(len(size) != 2 or min(size) < 1 for size in sizes):
        problems.append(error(f"block_structure is {' and '.join(sorted(blocks))}", "it must be two positive numbers"))
    block = next(iter(sizes), None)
    matrices: dict[str, StoredMatrix] = {}
    for name, info in {} if problems else base.tensors.items():
        site, _, part = name.rpartition(".")
        if part == "weight_packed":
            matrix = _packed(base, site)
        elif part == "weight" and f"{site}.weight_scale" in base.tensors:
            matrix = float8_matrix(base, site, "weight_scale", block) if info.dtype in FLOAT8 else _bytes(base, site)
        else:
            continue
        if isinstance(matrix, Problem):
            problems.append(matrix)
        else:
            matrices[f"{site}.weight"] = matrix
    return matrices, problems


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _config_problems(config: Mapping[str, Any], groups: list[Mapping[str, Any]]) -> list[Problem]:
    formats = [str(format) for part in (config, *groups) if (format := part.get("format")) is not None]
    problems = [
        error(f'compressed-tensors format "{format}" cannot be read', f"supported: {', '.join(_FORMATS)}")
        for format in dict.fromkeys(formats)
        if format not in _FORMATS
    ]
    if config.get("transform_config"):
        problems.append(error("weights under a transform cannot be read", "transform_config is not empty"))
    sparsity = _object(config.get("sparsity_config")).get("format", "dense")
    if sparsity != "dense":
        problems.append(error(f'sparse weights of format "{sparsity}" cannot be read', "", "take a dense checkpoint"))
    return problems


def _packed(base: TensorSource, site: str) -> StoredMatrix | Problem:
    names = _names(base, site, "weight_packed")
    packed, scale = base.tensors[names["weight_packed"]], base.tensors.get(f"{site}.weight_scale")
    if scale is None or "weight_shape" not in names or len(packed.shape) != 2 or packed.dtype != "int32":
        why = f"it is {packed.dtype} {[*packed.shape]}, and there are {', '.join(names)}"
        return error(f'"{site}.weight_packed" needs two dimensions of int32, weight_scale and weight_shape', why)
    shape = tuple(int(size) for size in base.read(names["weight_shape"]).reshape(-1))
    if len(shape) != 2 or min(shape) < 1 or shape[0] != packed.shape[0]:
        return error(f'"{site}.weight_shape" does not go with weight_packed', f"{shape} and {packed.shape}")
    bits = next((b for b in _PACKED_BITS if -(-shape[1] * b // 32) == packed.shape[1]), 0)
    if not bits:
        why = f"{packed.shape[1]} words hold rows of {shape[1]}; supported bits: {', '.join(map(str, _PACKED_BITS))}"
        return error(f'"{site}.weight_packed" cannot be read', why, "take a checkpoint of 4 or 8 bits")

    def codes() -> np.ndarray:
        return unpack_stream(base.read(names["weight_packed"]), bits, shape[1])

    return _integers(base, site, names, (shape[0], shape[1]), bits, codes)


def _bytes(base: TensorSource, site: str) -> StoredMatrix | Problem:
    names = _names(base, site, "weight")
    info = base.tensors[names["weight"]]
    if info.dtype != "int8" or len(info.shape) != 2:
        why = f"it is {info.dtype} {[*info.shape]}; supported: int8, {', '.join(FLOAT8)}"
        return error(f'"{site}.weight" has a scale, but cannot be read', why)

    def codes() -> np.ndarray:
        return base.read(names["weight"]).view(np.uint8) ^ np.uint8(128)

    return _integers(base, site, names, (info.shape[0], info.shape[1]), 8, codes)


def _names(base: TensorSource, site: str, weight: str) -> dict[str, str]:
    parts = (weight, "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
    return {part: f"{site}.{part}" for part in parts if f"{site}.{part}" in base.tensors}


def _integers(
    base: TensorSource, site: str, names: Mapping[str, str], shape: tuple[int, int], bits: int, codes: Any
) -> StoredMatrix | Problem:
    """A matrix of integer codes, which `codes` reads as unsigned ones."""
    rows, columns = shape
    scale = base.tensors[names["weight_scale"]]
    count = scale.shape[-1] if len(scale.shape) == 2 else 1
    whole = scale.shape in ((), (1,), (1, 1))
    if not (whole or scale.shape in ((rows,), (rows, count))) or not count or columns % count:
        why = f"{[*scale.shape]} scales for {[*shape]}"
        return error(f'"{site}.weight_scale" does not go with the weight', why)
    size = columns // count
    half = 1 << (bits - 1)
    zero = base.tensors.get(names.get("weight_zero_point", ""))
    if zero is not None and zero.shape not in (scale.shape, (-(-rows * bits // 32), count)):
        return error(f'"{site}.weight_zero_point" is {[*zero.shape]}', f"the scales are {[*scale.shape]}")
    index = base.read(names["weight_g_idx"]).reshape(-1) if "weight_g_idx" in names else None
    if index is not None and (
        index.dtype.kind != "i" or len(index) != columns or index.min() < 0 or index.max() >= count
    ):
        index = None if np.all(index == -1) else index  # -1 stands for no order, and so does nothing
        if index is not None:
            return error(f'"{site}.weight_g_idx" does not go with the scales', f"there are {count} groups")
    label = f"compressed-tensors int{bits}" + (f" g{size}" if count > 1 else "")
    info = integer_info(label, scale.dtype, shape, bits, size, symmetric=zero is None)
    if index is not None and not np.array_equal(index, np.arange(columns) // size):
        info = TensorInfo(scale.dtype, shape, QuantInfo(label + " act-order", suggests=nearest_format(columns, 32)))

    def decode() -> QuantTensor | np.ndarray:
        scales = np.broadcast_to(base.read(names["weight_scale"]).reshape(-1, count), (rows, count))
        points: np.ndarray | int = half
        if zero is not None:
            points = _zeros(base.read(names["weight_zero_point"]), bits, rows, count)
        if info.quant is not None and info.quant.label.endswith("act-order"):
            assert index is not None
            return dequantize_columns(codes(), scales, points, index, info.dtype)
        return integer_tensor(codes(), scales, points, info.dtype)

    return StoredMatrix(info, tuple(names.values()), decode)


def _zeros(stored: np.ndarray, bits: int, rows: int, count: int) -> np.ndarray:
    """Zero points [N, G] as unsigned codes."""
    if stored.dtype == np.int32 and stored.shape != (rows, count):
        return unpack_stream(stored.T, bits, rows).T
    signed = np.broadcast_to(stored.reshape(-1, count).astype(np.int16), (rows, count))
    return (signed + (1 << (bits - 1))).astype(np.uint8)
