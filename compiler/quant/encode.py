"""Encoding a weight matrix: slices of rows, one after the other, into the packed arrays that kernels read.

Nothing but the slices at work and the packed arrays is held: the matrix itself
may be mapped from a file larger than memory. Slices are independent, so threads and slice sizes change no bit.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...runtime.errors import HeddleError
from ...runtime.features import physical_cores
from ...schedules.layouts.quantized import QuantizedMatrix, packed_arrays
from ...schedules.layouts.scheme import WeightFormat
from ...schedules.layouts.tile16 import TILE, tiles
from .search import Candidate, best, candidates, codes, least_squares
from .two_level import two_level

SLICE_VALUES = 1 << 19  # 2 MB as float32: NumPy calls long enough that threads seldom wait for the interpreter


def encode(w: np.ndarray, fmt: WeightFormat, *, search: bool = True) -> QuantizedMatrix:
    """Quantize w float32 [N, K], finite. `search=False` rounds to nearest under the scale of the largest magnitude.

    Raises ValueError where K does not divide, OverflowError where a scale exceeds float16.
    """
    rows, columns = w.shape
    groups, size = fmt.groups(columns), fmt.group_size(columns)
    # A single column would be summed in another order: pad to a tile, and drop the padding at the end.
    padded = np.zeros((max(TILE, rows), columns), np.float32)
    padded[:rows] = w
    t = np.ascontiguousarray(padded.reshape(-1, size).T)
    channels = None
    if fmt.two_level:
        channels, scales, chosen = two_level(t, len(padded), fmt, search)
        channels = channels[:rows]
    else:
        chosen = _float_scales(t, fmt, search)
        scales = chosen[0].astype(np.float16)
    unsigned = codes(t, chosen, fmt)
    if not fmt.minima:
        unsigned += chosen[1]
    by_row = unsigned.astype(np.uint8).T.reshape(padded.shape)[:rows]
    zeros = None if fmt.symmetric else chosen[1].astype(np.uint8).reshape(-1, groups)[:rows]
    mins = chosen[1].astype(np.float16).reshape(-1, groups)[:rows] if fmt.minima else None
    return QuantizedMatrix(fmt, by_row, scales.reshape(-1, groups)[:rows], zeros, channels, mins)


def _float_scales(t: np.ndarray, fmt: WeightFormat, search: bool) -> Candidate:
    """The best scales that float16 holds, and zero points, or minima that it holds."""

    def stored(candidate: Candidate) -> Candidate:
        scale, zero = candidate
        return _stored(scale), _stored(zero, "minimum") if fmt.minima else zero

    chosen = best(t, [stored(c) for c in candidates(t, fmt, None if search else 1)], fmt)
    if search:
        chosen = best(t, [chosen, stored(least_squares(t, chosen, fmt))], fmt)
    return chosen


def _stored(values: np.ndarray, what: str = "scale") -> np.ndarray:
    """Scales or minima as the kernels will read them."""
    with np.errstate(over="ignore"):
        stored = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(stored).all():
        raise OverflowError(f"a {what} of {np.abs(values).max():g}")
    return stored


RowSource = Callable[[int, int], QuantizedMatrix]
"""Rows [first, first + count) of a matrix, quantized. Called by several threads at once."""


def quantize(
    w: np.ndarray,
    fmt: WeightFormat,
    *,
    parts: int = 1,
    name: str = "weight",
    search: bool = True,
    slice_tiles: int | None = None,
) -> dict[str, np.ndarray]:
    """Quantize w [N, K] of any float type, `parts` equal parts stacked, to the packed arrays of `layouts.quantized`.

    `slice_tiles` tiles of 16 rows are encoded at a time (None: what fits a cache). Raises HeddleError, naming `name` and the
    position, for NaN, infinities and weights too large for float16 scales, and where the shape does not suit the format.
    """
    if w.ndim != 2:
        raise HeddleError(f"{name} cannot be quantized", f"its shape is {w.shape}", "quantize matrices only")
    rows, columns = w.shape
    return assemble(encoded_rows(w, fmt, name, search), fmt, rows, columns, parts, name, slice_tiles)


def encoded_rows(w: np.ndarray, fmt: WeightFormat, name: str, search: bool = True) -> RowSource:
    """Rows of the matrix w [N, K] of floats, encoded. They raise HeddleError as `quantize` does."""

    def rows(first: int, count: int) -> QuantizedMatrix:
        piece = _finite(w[first : first + count], name, first)
        try:
            return encode(piece, fmt, search=search)
        except OverflowError as error:
            raise _refuse(name, piece, first, "is too large", f"{error} exceeds float16") from error

    return rows


def assemble(
    source: RowSource,
    fmt: WeightFormat,
    rows: int,
    columns: int,
    parts: int = 1,
    name: str = "weight",
    slice_tiles: int | None = None,
) -> dict[str, np.ndarray]:
    """The packed arrays of a matrix [rows, columns], slice by slice. HeddleError where the shape does not suit the format."""
    try:
        specs = packed_arrays(fmt, rows, columns, parts)
    except ValueError as error:
        raise HeddleError(f"{name} {rows, columns} cannot be quantized to {fmt.bits} bits", str(error)) from error
    out = {key: np.empty(shape, dtype) for key, (shape, dtype) in specs.items()}
    step = TILE * (slice_tiles or max(1, SLICE_VALUES // (TILE * columns)))
    per_part = rows // parts

    def run(job: tuple[int, int]) -> None:
        part, start = job
        packed = source(part * per_part + start, min(step, per_part - start)).pack()
        tile = part * tiles(per_part) + start // TILE
        for key, array in packed.items():
            out[key][tile : tile + len(array)] = array

    with ThreadPoolExecutor(len(physical_cores())) as pool:
        for _ in pool.map(run, [(part, start) for part in range(parts) for start in range(0, per_part, step)]):
            pass
    return out


def stacked(sources: Sequence[RowSource], heights: Sequence[int]) -> RowSource:
    """The rows of several sources, one upon the other."""
    ends = np.cumsum(heights).tolist()

    def rows(first: int, count: int) -> QuantizedMatrix:
        pieces = []
        at = first
        while at < first + count:
            i = bisect.bisect_right(ends, at)
            take = min(ends[i], first + count) - at
            pieces.append(sources[i](at - (ends[i] - heights[i]), take))
            at += take
        return QuantizedMatrix.concatenate(pieces)

    return rows


def _finite(w: np.ndarray, name: str, first: int) -> np.ndarray:
    """A slice as float32, checked; its row 0 is row `first` of the matrix."""
    piece = w.astype(np.float32)
    if not np.isfinite(piece).all():
        raise _refuse(name, np.where(np.isfinite(piece), 0, piece), first, "is not finite", "no scale can represent it")
    return piece


def _refuse(name: str, piece: np.ndarray, first: int, what: str, why: str) -> HeddleError:
    """An error about the largest value of a slice, or its first NaN."""
    row, column = np.unravel_index(np.argmax(np.abs(piece)), piece.shape)
    return HeddleError(
        f"{name}[{first + row}, {column}] {what}: {piece[row, column]:g}",
        why,
        "check the checkpoint (download it again if it should be sound), or leave this matrix unquantized",
    )


def dequantize(arrays: Mapping[str, np.ndarray], fmt: WeightFormat, rows: int, *, parts: int = 1) -> np.ndarray:
    """float32 [rows, K] of packed arrays."""
    return QuantizedMatrix.unpack(fmt, arrays, rows, parts).dequantize()
