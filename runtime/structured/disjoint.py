"""Whether two JSON schemas exclude each other, so that no value fits both. False where that cannot be told."""

from __future__ import annotations

import json
import math
from typing import Any

TYPES = frozenset(("null", "boolean", "integer", "number", "string", "array", "object"))
_DEPTH = 8


def disjoint(one: Any, other: Any, root: Any, depth: int = _DEPTH) -> bool:
    """Whether no value fits both schemas, whose references point into `root`: they have other types, other constants, ranges
    that do not meet, or a property that one requires and that excludes itself between them."""
    if one is False or other is False:
        return True
    if one is True or other is True or depth == 0:
        return False
    for first, second in ((one, other), (other, one)):
        if "$ref" in first:
            target = _target(first["$ref"], root)
            if target is not None and disjoint(target, second, root, depth - 1):
                return True
        for keyword in ("anyOf", "oneOf"):
            parts = first.get(keyword)
            if isinstance(parts, list) and parts and all(disjoint(part, second, root, depth - 1) for part in parts):
                return True
        if any(disjoint(part, second, root, depth - 1) for part in first.get("allOf", ()) if isinstance(part, dict)):
            return True
    if not _types(one) & _types(other):
        return True
    constants = _constants(one), _constants(other)
    if constants[0] is not None and constants[1] is not None and not constants[0] & constants[1]:
        return True
    if _types(one) | _types(other) <= {"integer", "number"} and _apart(one, other):
        return True
    return _types(one) == _types(other) == {"object"} and _properties_exclude(one, other, root, depth - 1)


def _properties_exclude(one: dict[str, Any], other: dict[str, Any], root: Any, depth: int) -> bool:
    """Whether a property must be there by one schema, and can fit neither's idea of it at once."""
    required = {name for schema in (one, other) for name in schema.get("required", ()) if isinstance(name, str)}
    return any(disjoint(_property(one, name), _property(other, name), root, depth) for name in required)


def _property(schema: dict[str, Any], name: str) -> Any:
    """The schema of a property; True where patterns may have a say."""
    properties = schema.get("properties", {})
    if name in properties:
        return properties[name]
    return True if schema.get("patternProperties") else schema.get("additionalProperties", True)


def _types(schema: dict[str, Any]) -> frozenset[str]:
    """The types that a value may have; an integer is a number too."""
    found = schema.get("type", TYPES)
    named = frozenset([found] if isinstance(found, str) else found)
    constants = _values(schema)
    if constants is not None:
        named &= frozenset(kind for value in constants for kind in _kinds(value))
    return named | {"integer"} if "number" in named and constants is None else named


def _kinds(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, (int, float)):
        return ("integer", "number") if float(value).is_integer() else ("number",)
    return ({type(None): "null", str: "string", list: "array", dict: "object"}[type(value)],)


def _values(schema: dict[str, Any]) -> list[Any] | None:
    """The values that a schema lists, None where it lists none."""
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return found if isinstance(found, list) else None


def _constants(schema: dict[str, Any]) -> set[str] | None:
    """The listed values as texts that are equal where JSON Schema takes the values for equal."""
    values = _values(schema)
    return None if values is None else {json.dumps(_same(value), sort_keys=True) for value in values}


def _same(value: Any) -> Any:
    """1.0 as 1, also inside."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_same(item) for item in value]
    return {key: _same(item) for key, item in value.items()} if isinstance(value, dict) else value


def _apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the ranges of two numbers do not meet."""
    (low, low_open), (high, high_open) = _least(other), _most(one)
    (low2, low2_open), (high2, high2_open) = _least(one), _most(other)
    return (
        high < low
        or high2 < low2
        or (high == low and (high_open or low_open))
        or (high2 == low2 and (high2_open or low2_open))
    )


def _least(schema: dict[str, Any]) -> tuple[float, bool]:
    """The lower bound, and whether it is excluded."""
    return max(_bounds(schema, "minimum", "exclusiveMinimum"), default=(-math.inf, False))


def _most(schema: dict[str, Any]) -> tuple[float, bool]:
    """The upper bound, and whether it is excluded."""
    return min(
        _bounds(schema, "maximum", "exclusiveMaximum"), default=(math.inf, False), key=lambda b: (b[0], not b[1])
    )


def _bounds(schema: dict[str, Any], inclusive: str, exclusive: str) -> list[tuple[float, bool]]:
    found = [(schema.get(inclusive), False), (schema.get(exclusive), True)]
    return [(value, out) for value, out in found if isinstance(value, (int, float)) and not isinstance(value, bool)]


def _target(reference: Any, root: Any) -> Any:
    """What a reference into the same document points to, None where it points elsewhere or nowhere."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found if isinstance(found, (dict, bool)) else None
