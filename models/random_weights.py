"""Random weights of a true shape: a checkpoint without files, for benchmarks and for trying a config.json alone."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from statistics import NormalDist

import ml_dtypes
import numpy as np

from .quant_tensor import QuantTensor
from .weights import FLOAT_DTYPES, TensorInfo, WeightSpec

STANDARD_DEVIATION = 0.02  # what transformers initialises linears and embeddings with
NORM_DEVIATION = 0.1
_BLOCK = 1 << 20  # elements drawn at a time
_LEVELS = 1 << 16


class RandomCheckpoint:
    """Every weight drawn from its seed and name alone, so tensors can be read in any order and one at a time.

    Matrices and biases are normal(0, 0.02), norm weights normal(1, 0.1). The values are quantiles picked by 16 random
    bits: about 1.5 ns an element, the same on every machine and for every NumPy, and equal up to rounding between
    dtypes.
    """

    def __init__(self, specs: Mapping[str, WeightSpec], seed: int, dtype: str) -> None:
        if dtype not in FLOAT_DTYPES:
            raise ValueError(f"random weights of dtype {dtype!r}; supported: {', '.join(FLOAT_DTYPES)}")
        if seed < 0:
            raise ValueError(f"the seed of random weights is {seed}; it must not be negative")
        self.seed, self.dtype = seed, dtype
        stored = [(name, spec) for spec in specs.values() for name in spec.tensors(spec.source[0])]
        self.tensors = {name: TensorInfo(dtype, spec.stored_shape) for name, spec in stored}
        self._norms = {  # by the mean that makes weights of 1
            name: 1 - spec.view.offset
            for name, spec in stored
            if spec.kind == "vector" and len(spec.shape) == 1 and not name.endswith("bias")
        }

    def read(self, name: str) -> np.ndarray:
        """One tensor, generated anew at each call; KeyError where there is no such tensor."""
        shape = self.tensors[name].shape
        mean, deviation = (self._norms[name], NORM_DEVIATION) if name in self._norms else (0.0, STANDARD_DEVIATION)
        table = _quantiles(mean, deviation, self.dtype)
        bits = table.view(np.uint16) if table.itemsize == 2 else table  # NumPy takes bfloat16 slowly
        out = np.empty(math.prod(shape), bits.dtype)
        words = hashlib.sha256(name.encode()).digest()[:16]
        source = np.random.SFC64(np.random.SeedSequence([self.seed, int.from_bytes(words, "little")]))
        for start in range(0, len(out), _BLOCK):
            part = out[start : start + _BLOCK]
            drawn = source.random_raw(-(-len(part) // 4)).astype("<u8", copy=False).view(np.uint16)[: len(part)]
            np.take(bits, drawn, out=part, mode="clip")  # every index is in range; this mode writes in place
        return out.view(table.dtype).reshape(shape)

    def read_quantized(self, name: str) -> QuantTensor:
        """None of these tensors is quantized."""
        raise KeyError(name)

    def identity(self) -> str:
        """Hex digest of the seed, the dtype, and every name and shape."""
        text = repr((self.seed, self.dtype, sorted((name, info.shape) for name, info in self.tensors.items())))
        return hashlib.sha256(f"random weights 1 {text}".encode()).hexdigest()


@functools.cache
def _quantiles(mean: float, deviation: float, dtype: str) -> np.ndarray:
    """The middles of 2^16 equally likely intervals of a normal distribution."""
    quantile = NormalDist(mean, deviation).inv_cdf
    values = np.array([quantile((level + 0.5) / _LEVELS) for level in range(_LEVELS)], np.float64)
    return values.astype(np.float32).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
