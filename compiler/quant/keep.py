"""Codes that the checkpoint has already: which scheme keeps them, and their way into the packed arrays without a new rounding.

Codes and zero points stay as they are. Scales and minima become float16, which is what most formats store; the products that
K-quants make of two levels of scales are rounded to it, by at most 2**-11 of their size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ...models.problems import Problem
from ...models.quant_tensor import QuantInfo, QuantTensor
from ...models.weights import Parameters
from ...runtime.errors import HeddleError
from ...runtime.manifest import QuantizedSite
from ...schedules.layouts.quantized import QuantizedMatrix
from ...schedules.layouts.scheme import Scheme, WeightFormat, weight_format
from .encode import RowSource
from .site_map import Keep

if TYPE_CHECKING:
    from .choose import Choice


def stored_quant(sites: Mapping[str, str], parameters: Parameters) -> dict[str, QuantInfo]:
    """How the checkpoint has quantized the sites whose codes can be had; `sites` as `model_sites` gives them."""
    infos = {site: parameters.info(param).quant for site, param in sites.items()}
    return {site: info for site, info in infos.items() if info is not None}


def own_scheme(info: QuantInfo | None, keep: Keep) -> tuple[Scheme | None, bool]:
    """The scheme of a site that is to keep its codes, and whether it can: else the format that the info suggests, or floats."""
    name = "" if info is None else info.holds or info.suggests
    return Scheme(weight_format(name), keep.activation) if name else None, bool(info and info.holds)


def quantized_sites(choice: Choice, stored: Mapping[str, QuantInfo]) -> dict[str, QuantizedSite]:
    """What the manifest says of the sites that the checkpoint has quantized."""
    return {site: QuantizedSite(i.label, i.holds, i.suggests, site in choice.kept) for site, i in stored.items()}


def code_notes(schemes: Mapping[str, str], quantized: Mapping[str, QuantizedSite]) -> list[Problem]:
    """A note for each way in which codes of the checkpoint are kept, or not; `schemes` has the name of each site's."""
    groups: dict[str, dict[str, int]] = {}
    for site, found in quantized.items():
        pattern = ".".join("*" if part.isdigit() else part for part in site.split("."))
        group = groups.setdefault(found.became(schemes[site], "floats"), {})
        group[pattern] = group.get(pattern, 0) + 1
    return [
        Problem("note", f"{what}: {', '.join(p if n == 1 else f'{p} ({n})' for p, n in patterns.items())}")
        for what, patterns in groups.items()
    ]


def kept_rows(tensor: QuantTensor, fmt: WeightFormat, name: str) -> RowSource:
    """Rows of a quantized tensor in a format that holds its codes.

    Raises ValueError where it does not (what a reader says in `QuantInfo.holds` is wrong), and HeddleError for scales or
    minima that are not finite in float16.
    """
    for what, values in (("scale", tensor.scales), ("minimum", tensor.mins)):
        if values is not None:
            _check_float16(values, what, name)
    columns = tensor.shape[1]
    groups, own = fmt.groups(columns), tensor.scales.shape[1]
    if groups % own:
        raise ValueError(f"{name} has {own} scales in a row, which {fmt.name} with its {groups} does not hold")
    if not fmt.minima and tensor.mins is not None:
        raise ValueError(f"{name} has minima, which {fmt.name} does not hold")
    shift = _shift(tensor, fmt, name)

    def spread(values: np.ndarray, dtype: type) -> np.ndarray:
        return np.repeat(values.astype(dtype), groups // own, axis=1)

    def rows(first: int, count: int) -> QuantizedMatrix:
        piece = tensor.rows(slice(first, first + count))
        codes = piece.codes + np.uint8(shift) if shift else piece.codes
        if codes.max(initial=0) > fmt.codes[1] or codes.min(initial=255) < shift:
            raise ValueError(f"{name} has codes up to {piece.codes.max()}, which {fmt.name} does not hold")
        zeros = mins = None
        if not fmt.symmetric:
            points = np.broadcast_to(np.asarray(piece.zeros, np.float32), piece.scales.shape)
            zeros = spread(points, np.uint8)
        if fmt.minima:
            least = np.zeros_like(piece.scales) if piece.mins is None else piece.mins
            mins = spread(least, np.float16)
        return QuantizedMatrix(fmt, codes, spread(piece.scales, np.float16), zeros, None, mins)

    return rows


def _shift(tensor: QuantTensor, fmt: WeightFormat, name: str) -> int:
    """What is added to the codes so that the format's zero is theirs: 112 for 5-bit codes in 8 bits."""
    zeros = np.asarray(tensor.zeros, np.float32)
    if fmt.minima and zeros.any():
        raise ValueError(f"{name} has a zero point beside minima, which {fmt.name} does not hold")
    if not np.array_equal(zeros, zeros.astype(np.uint8)):
        raise ValueError(f"{name} has zero points that are no codes, which {fmt.name} does not hold")
    if not fmt.symmetric:
        return 0
    first = int(zeros.flat[0])
    if first > fmt.zero or (zeros != first).any():
        raise ValueError(f"{name} has zero points that differ or exceed {fmt.zero}, which {fmt.name} does not hold")
    return fmt.zero - first


def _check_float16(values: np.ndarray, what: str, name: str) -> None:
    largest = float(np.abs(values).max(initial=0))  # NaN where there is one
    if not largest <= float(np.finfo(np.float16).max):
        raise HeddleError(
            f"{name} has a {what} of {largest:g}",
            "scales and minima are kept in float16, which does not have it",
            "check the checkpoint (download it again if it should be sound), or dequantize this matrix (none)",
        )
