"""Calling a compiled torch module: NumPy arrays in, NumPy arrays out, every argument checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import ModuleArtifact, open_module
from .errors import HeddleError, RequestError
from .module_manifest import FUNCTION, ArrayInfo, DimInfo
from .threads import set_threads, thread_count
from .tvm import ALIGNMENT, Library, empty, global_function, tensor, tensor_array, to_numpy
from .weights import load_weights

SHAPES = 16
"""How many combinations of extents are served before the memory that they have left behind is given back."""

Arrays = np.ndarray | tuple[np.ndarray, ...] | dict[str, np.ndarray]


class Module:
    """A compiled torch module. One thread at a time may call it, best the one that has loaded it."""

    def __init__(self, artifact: ModuleArtifact, *, threads: int | None = None) -> None:
        """`threads` as in `thread_count`. Raises ArtifactError where library and manifest disagree."""
        self.manifest = artifact.manifest
        self.threads = thread_count(threads)
        set_threads(self.threads)
        self._code = Library(artifact.file(artifact.target.library))
        self._function = self._code.function(FUNCTION)
        self.load_report, self._memory, weights = load_weights(artifact)
        self._params = tensor_array([weights[name] for name in self.manifest.params])
        self._clear = global_function("vm.builtin.memory_manager.clear")
        self._seen: set[tuple[int, ...]] = set()

    def __call__(self, *args: np.ndarray, **kwargs: np.ndarray) -> Arrays:
        """The module's outputs, as torch returns them: an array, a tuple of arrays, or a dict.

        Arguments are given in order or by name, with the exact element types and shapes of `manifest.inputs`; RequestError
        lists everything that does not fit.
        """
        arrays, extents = self._arguments(args, kwargs)
        key = tuple(extents.values())
        if key not in self._seen:
            if len(self._seen) == SHAPES:  # results and workspaces of other sizes are kept for ever otherwise
                self._clear()
                self._seen.clear()
            self._seen.add(key)
        try:
            results = self._function(*(_shared(array) for array in arrays), self._params)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1]
            raise HeddleError("the module failed on these arguments", why, f"it takes {self.signature}") from error
        outputs = tuple(to_numpy(result) for result in results)
        if self.manifest.returns == "dict":
            return {info.name: output for info, output in zip(self.manifest.outputs, outputs, strict=True)}
        return outputs[0] if self.manifest.returns == "tensor" else outputs

    @property
    def signature(self) -> str:
        """The arguments with their types and shapes, and the bounds of dimensions."""
        inputs = ", ".join(map(str, self.manifest.inputs))
        dims = ", ".join(_bounds(name, dim) for name, dim in self.manifest.dims.items())
        return f"({inputs})" + (f" with {dims}" if dims else "")

    def __repr__(self) -> str:
        outputs = ", ".join(map(str, self.manifest.outputs))
        return f"Module({self.manifest.source}: {self.signature} -> {outputs})"

    def _arguments(
        self, args: tuple[np.ndarray, ...], kwargs: Mapping[str, np.ndarray]
    ) -> tuple[list[np.ndarray], dict[str, int]]:
        """The arguments in order and the extents of the dimensions."""
        inputs, extents = self.manifest.inputs, dict[str, int]()
        given: dict[str, Any] = {info.name: arg for info, arg in zip(inputs, args, strict=False)}
        problems = []
        if len(args) > len(inputs):
            problems.append(f"{len(args)} arguments are given, the module has {len(inputs)}")
        problems += [f"{name} is no argument of the module" for name in kwargs if name not in {i.name for i in inputs}]
        problems += [f"{name} is given twice" for name in kwargs if name in given]
        given |= kwargs
        for info in inputs:
            if info.name not in given:
                problems.append(f"{info.name} is missing")
            else:
                problems += _misfits(info, given[info.name], self.manifest.dims, extents)
        if problems:
            what = f"the arguments do not fit: {'; '.join(problems)}"
            raise RequestError(what, fix=f"the module takes {self.signature}")
        return [given[info.name] for info in inputs], extents


def load_module(path: str | Path, *, threads: int | None = None, verify: str = "quick") -> Module:
    """The compiled torch module at `path`, ready to be called on NumPy arrays; `verify` as in `open_artifact`."""
    return Module(open_module(path, verify), threads=threads)


def _misfits(info: ArrayInfo, array: Any, dims: Mapping[str, DimInfo], extents: dict[str, int]) -> list[str]:
    """What is wrong with one argument; the extents of its dimensions are added to `extents`."""
    if not isinstance(array, np.ndarray):
        return [f"{info.name} is a {type(array).__name__}, not a NumPy array"]
    problems = []
    if str(array.dtype) != info.dtype:
        problems.append(f"{info.name} is {array.dtype}, not {info.dtype}")
    if array.ndim != len(info.shape):
        return [*problems, f"{info.name} has {array.ndim} dimensions, not {len(info.shape)}"]
    for axis, (extent, wanted) in enumerate(zip(array.shape, info.shape, strict=True)):
        place = f"dimension {axis} of {info.name}"
        if isinstance(wanted, int):
            if extent != wanted:
                problems.append(f"{place} is {extent}, not {wanted}")
        elif wanted in dims:
            dim = dims[wanted]
            if extents.setdefault(wanted, extent) != extent:
                problems.append(f"{place} is {extent}, but {wanted} was {extents[wanted]} before")
            elif extent < dim.least or (dim.most is not None and extent > dim.most):
                problems.append(f"{place} is {extent}; {_bounds(wanted, dim)}")
    return problems


def _bounds(name: str, dim: DimInfo) -> str:
    return f"{name} from {dim.least}" + ("" if dim.most is None else f" to {dim.most}")


def _shared(array: np.ndarray) -> Any:
    """A tensor over the array, or over an aligned copy where compiled code cannot take it as it is."""
    if not array.size:  # NumPy gives empty arrays other strides than compiled code checks
        strides = [array.itemsize * math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        return tensor(np.lib.stride_tricks.as_strided(empty((1,), array.dtype), array.shape, strides))
    if not (array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % ALIGNMENT == 0):
        copy = empty(array.shape, array.dtype)
        copy[...] = array
        array = copy
    return tensor(array)
