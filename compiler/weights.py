"""Computing the stored weights: every lifted recipe evaluated once, one tensor at a time."""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np

from ..ir_passes.lift_weights import LiftedWeight, Recipe, evaluate, parameter_name
from ..models.quant_tensor import NUMPY_DTYPES
from ..models.weights import Parameters
from ..schedules.layouts.scheme import WeightFormat, weight_format
from .quant.encode import RowSource, assemble, encoded_rows, stacked
from .quant.keep import kept_rows


class WeightWriter:
    """The weights of an artifact as (name, dtype, shape), and the means to produce each.

    Matrices are read in `dtypes`, norm weights and biases as float32. A bfloat16 weight is stored as such, while compiled code
    sees its bits as uint16. `kept` are pairs of a parameter and a weight format that has the checkpoint's own codes.
    """

    def __init__(
        self,
        lifted: Mapping[str, LiftedWeight],
        parameters: Parameters,
        dtypes: Mapping[str, str],
        kept: Container[tuple[str, str]] = (),
    ) -> None:
        self._kept = kept
        self._lifted, self._parameters, self._dtypes = lifted, parameters, dtypes
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
            params, fmt = _sources(source), weight_format(attrs["format"])
            heights = [self._parameters.specs[param].shape[0] for param in params]
            rows, columns = sum(heights), self._parameters.specs[params[0]].shape[1]
            matrix = stacked([self._rows(param, fmt) for param in params], heights)
            self._encoded = key, assemble(matrix, fmt, rows, columns, attrs["parts"], key[0])
        return self._encoded[1][attrs["array"]]

    def _rows(self, param: str, fmt: WeightFormat) -> RowSource:
        """The rows of one matrix in a weight format: with the checkpoint's codes, or quantized here."""
        if (param, fmt.name) in self._kept:
            return kept_rows(self._parameters.read_quantized(param), fmt, self._parameters.names[param])
        return encoded_rows(self._read(param), fmt, param)

    def _read(self, param: str) -> np.ndarray:
        dtype = np.dtype(NUMPY_DTYPES.get(name := self._dtypes.get(param, "float32"), name))
        array = self._parameters.read(param)
        return array if array.dtype == dtype else array.astype(dtype)

    def _stored_dtype(self, weight: LiftedWeight) -> str:
        dtypes = {self._dtypes.get(source, "float32") for source in _sources(weight.recipe)}
        return dtypes.pop() if weight.dtype == "uint16" else weight.dtype


def _sources(recipe: Recipe) -> list[str]:
    return [recipe["source"]] if "source" in recipe else [s for arg in recipe["args"] for s in _sources(arg)]
