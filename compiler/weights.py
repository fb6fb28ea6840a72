"""Computing the stored weights: every lifted recipe evaluated once, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from ..ir_passes.lift_weights import LiftedWeight, Recipe, evaluate
from ..models.weights import TensorSource

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
        self.specs = [(name, self._stored_dtype(weight), weight.shape) for name, weight in lifted.items()]

    def produce(self, name: str) -> np.ndarray:
        """The stored array of one weight; bfloat16 as uint16."""
        return evaluate(self._lifted[name].recipe, self._read)

    def _read(self, param: str) -> np.ndarray:
        dtype = np.dtype(NUMPY_DTYPES[self._dtypes.get(param, "float32")])
        array = self._checkpoint.read(self._names[param])
        return array if array.dtype == dtype else array.astype(dtype)

    def _stored_dtype(self, weight: LiftedWeight) -> str:
        dtypes = {self._dtypes.get(source, "float32") for source in _sources(weight.recipe)}
        return dtypes.pop() if weight.dtype == "uint16" else weight.dtype


def _sources(recipe: Recipe) -> list[str]:
    return [recipe["source"]] if "source" in recipe else [s for arg in recipe["args"] for s in _sources(arg)]
