"""The tile32 weight layout."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heddle.schedules.layouts import tile32

DTYPES = st.sampled_from([np.float32, np.float16, np.uint16, ml_dtypes.bfloat16])


@given(rows=st.integers(1, 80), columns=st.integers(1, 9), parts=st.integers(1, 3), dtype=DTYPES)
def test_pack_and_unpack_are_inverse(rows: int, columns: int, parts: int, dtype: type) -> None:
    w = np.arange(parts * rows * columns).reshape(-1, columns).astype(dtype)
    packed = tile32.pack(w, parts)
    assert packed.shape == tile32.packed_shape([rows] * parts, columns)
    assert packed.dtype == w.dtype
    np.testing.assert_array_equal(tile32.unpack(packed, parts * rows, parts), w)


def test_lanes_are_output_channels_and_parts_start_at_a_tile() -> None:
    w = np.arange(2 * 40 * 3, dtype=np.float32).reshape(80, 3)
    packed = tile32.pack(w, parts=2)
    np.testing.assert_array_equal(packed[1, 2, :8], w[32:40, 2])
    np.testing.assert_array_equal(packed[1, :, 8:], 0)
    np.testing.assert_array_equal(packed[2, 1], w[40:72, 1])


def test_padded_vector_follows_the_tiles() -> None:
    v = tile32.pad_vector(np.arange(1, 81, dtype=np.float32), parts=2)
    assert v.shape == (128,)
    assert (v[39], v[40], v[63], v[64], v[103], v[104]) == (40, 0, 0, 41, 80, 0)


def test_wrong_shapes_are_errors() -> None:
    with pytest.raises(ValueError, match="2 equal parts"):
        tile32.pack(np.zeros((3, 4), np.float32), parts=2)
    with pytest.raises(ValueError, match="not a tile32 matrix"):
        tile32.unpack(np.zeros((2, 4, 32), np.float32), 65)
    with pytest.raises(ValueError, match="wants a vector"):
        tile32.pad_vector(np.zeros((3, 4), np.float32))
