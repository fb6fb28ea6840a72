"""Dataclasses as the schema of JSON: an unknown, missing or mistyped field is an error that names it by its path."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from .errors import ManifestError


def read_json(text: str) -> dict[str, Any]:
    """The object in a manifest's text; ManifestError where there is none."""
    try:
        raw = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ManifestError("manifest.json is not JSON", str(error), "compile again") from error
    if not isinstance(raw, dict):
        raise ManifestError("manifest.json is not an object", f"it holds a {type(raw).__name__}", "compile again")
    return raw


@functools.cache
def _hints(cls: type) -> Mapping[str, Any]:
    return types.MappingProxyType(typing.get_type_hints(cls))


def decode(kind: Any, value: Any, path: str) -> Any:
    """`value` (from JSON) as `kind`: a dataclass, tuple[X, ...], dict[str, X], int, float, str or Any."""
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)  # type: ignore[arg-type]
        if not isinstance(value, dict):
            raise _mismatch(path, "an object", value)
        for name in value.keys() - hints.keys():
            raise ManifestError(f"{path}.{name} is not a known field; known are {', '.join(hints)}")
        for name in hints:
            if name not in value:
                raise ManifestError(f"{path}.{name} is missing")
        return kind(**{name: decode(hint, value[name], f"{path}.{name}") for name, hint in hints.items()})  # type: ignore[operator]
    if origin is tuple:
        if not isinstance(value, list):
            raise _mismatch(path, "a list", value)
        item = typing.get_args(kind)[0]
        return tuple(decode(item, element, f"{path}[{i}]") for i, element in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _mismatch(path, "an object", value)
        item = typing.get_args(kind)[1]
        return {key: decode(item, element, f"{path}[{key!r}]") for key, element in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _mismatch(path, kind.__name__, value)
    return value


def _mismatch(path: str, expected: str, value: Any) -> ManifestError:
    return ManifestError(f"{path} must be {expected}, found {json.dumps(value)[:80]}")
