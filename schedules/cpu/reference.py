"""NumPy helpers that the references and input generators of the kernels share."""

from __future__ import annotations

import ml_dtypes
import numpy as np

_TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "int8": np.int8}


def itemsize(dtype: str) -> int:
    """Bytes of one stored element."""
    return np.dtype(_TYPES[dtype]).itemsize


def narrow(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 rounded to the stored type; bfloat16 as its bits in uint16, as the kernels take it."""
    stored = x.astype(_TYPES[dtype])
    return stored.view(np.uint16) if dtype == "bfloat16" else stored


def widen(x: np.ndarray, dtype: str) -> np.ndarray:
    """Stored elements (bfloat16 as bits) to float32, exactly."""
    return (x.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else x).astype(np.float32)
