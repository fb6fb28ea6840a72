"""Computing the stored weights: every lifted recipe evaluated once, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from ..ir_passes.lift_weights import LiftedWeight, Recipe, evaluate, parameter_name
from ..models.weights import TensorSource
from ..schedules.layouts.scheme import weight_format
from .quant import quantize

NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


class WeightWriter:
    """The weights of an artifact as (name, dtype, shape), and the means to produce each.

    Parameters are read from the checkpoint by `names`; matrices in `dtypes`, norm weights and biases as float32. A bfloat16
    weight is stored as such, while compiled code sees its bits as uint16.
    """

    def __init__(
        self,
        lifted: Mapping[str, LiftedWeight],
        checkpoint: TensorSource,
        names: Mapping[str, str],
        dtypes: Mapping[str, str],
    ) -> None:
        self._lifted, self._checkpoint, self._names, self._dtypes = lifted, checkpoint, names, dtypes
        self._encoded: tuple[tuple[str, str, int], dict[str, np.ndarray]] | None = None
        self.specs = [(name, self._stored_dtype(weight), weight.shape) for name, weight in lifted.items()]

    def produce(self, name: str) -> np.ndarray:
        """The stored array of one weight; bfloat16 as uint16."""
        return evaluate(self._lifted[name].recipe, self._read, self._quantized)

    def _quantized(self, recipe: Recipe) -> np.ndarray:
        """One array of a quantized matrix. The others, which are asked for next, are kept until another matrix comes."""
        attrs, (source,) = recipe["attrs"], recipe["args"]
        key = parameter_name(source), attrs["format"], attrs["parts"]
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = None  # first make room
            matrix = evaluate(source, self._read)
            self._encoded = key, quantize(matrix, weight_format(attrs["format"]), parts=attrs["parts"], name=key[0])
        return self._encoded[1][attrs["array"]]

    def _read(self, param: str) -> np.ndarray:
        dtype = np.dtype(NUMPY_DTYPES[self._dtypes.get(param, "float32")])
        array = self._checkpoint.read(self._names[param])
        return array if array.dtype == dtype else array.astype(dtype)

    def _stored_dtype(self, weight: LiftedWeight) -> str:
        dtypes = {self._dtypes.get(source, "float32") for source in _sources(weight.recipe)}
        return dtypes.pop() if weight.dtype == "uint16" else weight.dtype


def _sources(recipe: Recipe) -> list[str]:
    return [recipe["source"]] if "source" in recipe else [s for arg in recipe["args"] for s in _sources(arg)]
