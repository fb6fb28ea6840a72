"""GPTQ checkpoints (Frantar et al. 2022) as AutoGPTQ and GPTQModel write them.

`qweight` int32 [K * bits / 32, N] packs columns, `qzeros` int32 [G, N * bits / 32] output channels, codes following each other
without gaps; `scales` float16 [G, N]; `g_idx` int32 [K] is the group of each column. Format "gptq" stores zero points less 1
(AutoGPTQ adds it back modulo 2^bits), "gptq_v2" as they are. With act-order (`desc_act`) groups follow the order in which
columns were quantized: groups of a layout are consecutive columns, so that such codes cannot be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..problems import Problem, error
from ..quant_tensor import QuantInfo, QuantTensor
from ..weights import TensorInfo, TensorSource
from .quantized import StoredMatrix, dequantize_columns, integer_info, integer_tensor, nearest_format, unpack_stream

_FORMATS = ("gptq", "gptq_v2")
_BITS = (2, 3, 4, 8)


def gptq(config: Mapping[str, Any], base: TensorSource, dtype: str) -> tuple[dict[str, StoredMatrix], list[Problem]]:
    """The matrices of a GPTQ checkpoint under the names of plain ones, and what is wrong with them."""
    format = str(config.get("checkpoint_format") or config.get("format") or "gptq").lower()
    problems = []
    if format not in _FORMATS:
        why = f"supported: {', '.join(_FORMATS)}"
        problems.append(error(f'GPTQ checkpoints of format "{format}" cannot be read', why, "take format gptq"))
    if config.get("is_marlin_format"):
        problems.append(error("GPTQ checkpoints packed for Marlin cannot be read", "", "take format gptq"))
    if config.get("rotation"):
        problems.append(error("GPTQ with rotated weights cannot be read", "", "take a checkpoint without rotation"))
    matrices: dict[str, StoredMatrix] = {}
    for name in [] if problems else base.tensors:
        if name.endswith(".qweight"):
            site = name.removesuffix(".qweight")
            matrix = _matrix(base, site, config, add=format == "gptq")
            if isinstance(matrix, Problem):
                problems.append(matrix)
            else:
                matrices[f"{site}.weight"] = matrix
    return matrices, problems


def _matrix(base: TensorSource, site: str, config: Mapping[str, Any], *, add: bool) -> StoredMatrix | Problem:
    names = {part: f"{site}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")}
    found = {part: base.tensors[name] for part, name in names.items() if name in base.tensors}
    weight, zeros, scales = (found.get(part, TensorInfo("", ())) for part in ("qweight", "qzeros", "scales"))
    if len(weight.shape) != 2 or len(scales.shape) != 2 or {weight.dtype, zeros.dtype} != {"int32"}:
        return _misshapen(site, found)
    words, rows = weight.shape
    index, bits, columns = None, config.get("bits"), 0
    if "g_idx" in found:  # bits may differ between sites, and follow from the shapes
        index = base.read(names["g_idx"]).reshape(-1)
        columns = len(index)
        index = index if columns else None  # GPTQModel leaves it empty where groups are in order
        bits = words * 32 // columns if columns else bits
    if bits not in _BITS:
        why = f"supported: {', '.join(map(str, _BITS))}"
        return error(f'GPTQ weights "{site}" have {bits!r} bits', why, "take a checkpoint of 4 or 8 bits")
    columns = columns or words * 32 // bits
    groups = scales.shape[0]
    if columns * bits != words * 32 or scales.shape[1] != rows or zeros.shape != (groups, -(-rows * bits // 32)):
        return _misshapen(site, found)
    size = columns // groups if groups and columns % groups == 0 else 0
    given = config.get("group_size", -1)
    # Where `given` does not divide the columns, the last group is shorter.
    short = type(given) is int and given > 0 and columns % given > 0 and groups == -(-columns // given)
    if short and index is None:
        index = np.arange(columns) // given
    if index is None and (not size or given not in (-1, size)):
        return _misshapen(site, found)
    if index is not None and (index.dtype.kind != "i" or index.min() < 0 or index.max() >= groups):
        return error(f'"{names["g_idx"]}" names groups that there are not', f"there are {groups}")
    ordered = size > 0 and (index is None or np.array_equal(index, np.arange(columns) // size))
    in_order = ordered or (short and index is not None and np.array_equal(index, np.arange(columns) // given))
    width = given if short and not ordered else size
    label = f"GPTQ {bits}-bit" + (f" g{width}" if 0 < width < columns else "") + ("" if in_order else " act-order")
    shape = rows, columns
    zero_points = unpack_stream(base.read(names["qzeros"]), bits, rows).T
    if add:
        zero_points = (zero_points + np.uint8(1)) & np.uint8((1 << bits) - 1)
    half = 1 << (bits - 1)
    symmetric = bool(np.all(zero_points == half))
    points = half if symmetric else zero_points  # what is kept until the matrix is read
    if ordered:
        info = integer_info(label, scales.dtype, shape, bits, size, symmetric=symmetric)
    else:
        quant = QuantInfo(label, suggests=nearest_format(columns, 32))
        info = TensorInfo(scales.dtype, shape, quant)

    def decode() -> QuantTensor | np.ndarray:
        codes = unpack_stream(base.read(names["qweight"]).T, bits, columns)
        values = base.read(names["scales"]).T
        if not ordered:
            assert index is not None
            return dequantize_columns(codes, values, points, index, info.dtype)
        return integer_tensor(codes, values, points, info.dtype)

    return StoredMatrix(info, tuple(names[part] for part in found), decode)


def _misshapen(site: str, found: Mapping[str, TensorInfo]) -> Problem:
    expected = "qweight int32 [K * bits / 32, N], qzeros int32 [G, N * bits / 32], scales [G, N]"
    shapes = ", ".join(f"{part} {info.dtype} {[*info.shape]}" for part, info in found.items())
    return error(f'GPTQ tensors of "{site}" do not fit together', f"expected {expected}; found {shapes}")
