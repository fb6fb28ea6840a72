"""Typed access to the metadata of one model, with every problem collected rather than raised at the first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ...problems import Problem, error

# Keys of an architecture without influence on what the model computes, or that only repeat what the tensors say.
_INERT = (
    "attention.causal",
    "classifier.output_labels",
    "pooling_type",
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "vocab_size",
)


class Facts:
    """What is known of a model: metadata under `general.architecture`, names of tensors, and small tensors' values.

    Keys are given without the architecture's name. A bad value is replaced by a placeholder so that reading goes on; nothing of
    a result is to be used while there are `problems`.
    """

    def __init__(
        self, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], np.ndarray]
    ) -> None:
        self.arch = str(metadata.get("general.architecture", ""))
        self.metadata, self.shapes, self.read = metadata, shapes, read
        self.problems: list[Problem] = []
        self._seen: set[str] = set()

    def has(self, *tensors: str) -> bool:
        """Whether the file has one of these tensors of the first layer, or outside of the layers."""
        return any(name.format(i=0) in self.shapes for name in tensors)

    def raw(self, key: str) -> Any:
        """A value as it is, None where it is absent."""
        self._seen.add(key)
        return self.metadata.get(f"{self.arch}.{key}")

    def get(self, key: str) -> Any:
        """A value, None where it is absent. A list that says the same of every layer is one value."""
        value = self.raw(key)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            return value[0].item()
        return value

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        """An integer from `minimum` to 2^30; required where there is no default."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not minimum <= value <= 1 << 30:
            self._wrong(key, value, f"an integer from {minimum} to 2^30")
            return minimum
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; required where there is no default.

        Files hold float32: the value is the shortest decimal that rounds to it, which is what the config.json had.
        """
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            self._wrong(key, value, "a finite number")
            return 1.0
        return float(str(np.float32(value)))

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            self._wrong(key, value, "a string")
        return value if isinstance(value, str) else default

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            self._wrong(key, value, "true or false")
        return default if not isinstance(value, bool) else value

    def bad(self, what: str, why: str = "", fix: str = "") -> None:
        """Record a problem, once."""
        problem = error(what, why, fix)
        if problem not in self.problems:
            self.problems.append(problem)

    def _wrong(self, key: str, value: Any, expected: str) -> None:
        name = f'metadata key "{self.arch}.{key}"'
        if value is None:
            self.bad(f"{name} is missing", "", "convert the model again with a current llama.cpp")
        elif isinstance(value, np.ndarray):
            self.bad(f"{name} differs from layer to layer", "layers of different shapes are not supported")
        else:
            self.bad(f"{name} is {value!r:.80}", f"it must be {expected}")

    def check_unknown(self, inert: Collection[str] = ()) -> None:
        """Report every key of the architecture that nothing has read and that may change what the model computes."""
        for name, value in self.metadata.items():
            key = name.removeprefix(f"{self.arch}.")
            if key == name or key in self._seen or key in _INERT or key in inert:
                continue
            if value in (0, False, "", "none") if np.isscalar(value) else not len(value):
                continue  # switched off
            self.bad(f'unknown metadata key "{name}"', f"it may change what the model computes; it is {value!r:.80}")
