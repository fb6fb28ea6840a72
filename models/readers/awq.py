"""AWQ checkpoints (Lin et al. 2023) as AutoAWQ writes them: 4-bit codes with a zero point and a float16 scale per group.

`version` "gemm" packs 8 output channels into a word, even ones first: `qweight` int32 [K, N / 8], `qzeros` int32 [G, N / 8],
`scales` float16 [G, N]. "gemv" packs 8 columns in their order: `qweight` [N, K / 8], `qzeros` [N, Z], `scales` [N, 8 Z], where
8 Z is G, padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..problems import Problem, error
from ..quant_tensor import QuantTensor
from ..weights import TensorInfo, TensorSource
from .quantized import StoredMatrix, integer_info, integer_tensor, unpack_bits

_GEMM_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of 8 consecutive channels in a word, in units of 4 bits
_VERSIONS = ("gemm", "gemv")


def awq(config: Mapping[str, Any], base: TensorSource, dtype: str) -> tuple[dict[str, StoredMatrix], list[Problem]]:
    """The matrices of an AWQ checkpoint under the names of plain ones, and what is wrong with them."""
    bits = config.get("bits", config.get("w_bit", 4))
    group = config.get("group_size", config.get("q_group_size", 128))
    version = str(config.get("version", config.get("format", "gemm"))).lower()
    problems = []
    if bits != 4:
        problems.append(error(f"AWQ with {bits!r} bits", "AutoAWQ's kernels have 4", "take a 4-bit checkpoint"))
    if version not in _VERSIONS:
        why = f"supported: {', '.join(_VERSIONS)}"
        problems.append(error(f'AWQ checkpoints of version "{version}" cannot be read', why, "take version gemm"))
    if type(group) is not int or group < -1 or group == 0:
        problems.append(error(f"AWQ group_size is {group!r:.40}", "it must be a positive number, or -1 for whole rows"))
    if config.get("zero_point", True) is not True:
        problems.append(error("AWQ without zero points", "AutoAWQ has no kernel for it", "take a usual checkpoint"))
    matrices: dict[str, StoredMatrix] = {}
    for name in [] if problems else base.tensors:
        if name.endswith(".qweight"):
            site = name.removesuffix(".qweight")
            matrix = (_gemm if version == "gemm" else _gemv)(base, site, group)
            if isinstance(matrix, Problem):
                problems.append(matrix)
            else:
                matrices[f"{site}.weight"] = matrix
    return matrices, problems


def _parts(base: TensorSource, site: str) -> list[TensorInfo]:
    return [base.tensors.get(f"{site}.{part}", TensorInfo("", ())) for part in ("qweight", "qzeros", "scales")]


def _gemm(base: TensorSource, site: str, group: int) -> StoredMatrix | Problem:
    weight, zeros, scales = _parts(base, site)
    columns, words = weight.shape if len(weight.shape) == 2 else (0, 0)
    size = columns if group == -1 else group
    groups = columns // size if size else 0
    expected = (groups, words), (groups, words * 8)
    if not groups or columns % size or (zeros.shape, scales.shape) != expected or not _are_words(weight, zeros):
        return _misshapen(site, "qweight [K, N / 8], qzeros [G, N / 8] and scales [G, N]", weight, zeros, scales)
    info = integer_info(_label(size), scales.dtype, (words * 8, columns), 4, size, symmetric=False)

    def decode() -> QuantTensor:
        codes, points = (_channels(base.read(f"{site}.{part}")) for part in ("qweight", "qzeros"))
        return integer_tensor(codes, base.read(f"{site}.scales").T, points, info.dtype)

    return StoredMatrix(info, _names(site), decode)


def _channels(words: np.ndarray) -> np.ndarray:
    """Words [m, N / 8] of version gemm as codes [N, m]. They are transposed first, while they are few bytes."""
    words = np.ascontiguousarray(words.T).view(np.uint32)
    out = np.empty((len(words), 8, words.shape[1]), np.uint8)
    for channel, place in enumerate(_GEMM_PLACES):
        out[:, channel] = (words >> np.uint32(4 * place)) & np.uint32(15)
    return out.reshape(-1, words.shape[1])


def _gemv(base: TensorSource, site: str, group: int) -> StoredMatrix | Problem:
    weight, zeros, scales = _parts(base, site)
    rows, words = weight.shape if len(weight.shape) == 2 else (0, 0)
    columns = words * 8
    size = columns if group == -1 else group
    groups = columns // size if size else 0
    fits = len(zeros.shape) == 2 and zeros.shape[0] == rows and scales.shape == (rows, zeros.shape[1] * 8)
    if not groups or columns % size or not fits or scales.shape[1] < groups or not _are_words(weight, zeros):
        return _misshapen(site, "qweight [N, K / 8], qzeros [N, Z] and scales [N, 8 Z]", weight, zeros, scales)
    info = integer_info(_label(size), scales.dtype, (rows, columns), 4, size, symmetric=False)

    def decode() -> QuantTensor:
        codes = unpack_bits(base.read(f"{site}.qweight"), 4)
        points = unpack_bits(base.read(f"{site}.qzeros"), 4)[:, :groups]
        return integer_tensor(codes, base.read(f"{site}.scales")[:, :groups], points, info.dtype)

    return StoredMatrix(info, _names(site), decode)


def _are_words(*infos: TensorInfo) -> bool:
    return all(info.dtype == "int32" for info in infos)


def _names(site: str) -> tuple[str, ...]:
    return tuple(f"{site}.{part}" for part in ("qweight", "qzeros", "scales"))


def _label(group: int) -> str:
    return f"AWQ 4-bit g{group}"


def _misshapen(site: str, expected: str, *found: TensorInfo) -> Problem:
    shapes = ", ".join(f"{info.dtype} {[*info.shape]}" if info.dtype else "missing" for info in found)
    return error(f'AWQ tensors of "{site}" do not fit together', f"expected {expected}; found {shapes}")
