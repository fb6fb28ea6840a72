"""JSON schemas as the grammar backend takes them: what it would ignore or only approximate is refused here, by name and place.

JSON Schema draft 2020-12; tuples in the form of older drafts too, where `$schema` names one.
"""

from __future__ import annotations

import decimal
import difflib
import json
import math
from collections.abc import Iterator
from typing import Any

from ..errors import RequestError
from .disjoint import disjoint

MAX_DEPTH = 50
"""Schemas inside of schemas; the backend's reader of JSON gives up soon after."""

MAX_MULTIPLE = 20_000
"""The least common multiple of all multipleOf, without powers of ten: the grammar counts in remainders of it."""

SCHEMA, SCHEMAS, NAMED, VALUE = "schema", "schemas", "named", "value"
KEYWORDS = {
    **dict.fromkeys(("items", "additionalItems", "additionalProperties"), SCHEMA),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), SCHEMAS),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), NAMED),
    **dict.fromkeys(("$ref", "const", "enum", "type", "required", "minItems", "maxItems"), VALUE),
    **dict.fromkeys(("minProperties", "maxProperties", "minLength", "maxLength", "pattern", "format"), VALUE),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), VALUE),
}
"""What is supported, and what stands under each: a schema, a list of them, schemas by name, or no schema."""

ANNOTATIONS = frozenset(
    (
        *("$anchor", "$comment", "$id", "$schema", "id", "title", "description", "default", "examples", "deprecated"),
        *("readOnly", "writeOnly", "contentMediaType", "contentEncoding", "discriminator"),
    )
)
"""What constrains nothing. (A discriminator repeats what the alternatives say. Names that begin with `x-` are nobody's.)"""

UNSUPPORTED = {
    **dict.fromkeys(("not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems"), ""),
    **dict.fromkeys(("propertyNames", "dependencies", "dependentRequired", "dependentSchemas"), ""),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$dynamicAnchor"), ""),
    **dict.fromkeys(("$recursiveRef", "$recursiveAnchor", "$vocabulary"), ""),
    "nullable": "it is OpenAPI's; write {'type': [..., 'null']}",
    "x-guidance": "the layout is chosen by the fields of Structured",
}
"""Known, and refused; with what to write instead."""


def prepared(text: str) -> str:
    """The schema `text`, which is JSON, with each oneOf whose alternatives exclude each other as anyOf.

    RequestError names a keyword that is not supported, and its place.
    """
    schema = json.loads(text)
    if schema is False:
        raise RequestError("json is false, which no value fits")
    if schema is True:
        return "{}"
    return json.dumps(_Reader(schema).read(schema, "json", 0), ensure_ascii=False, separators=(",", ":"))


class _Reader:
    """Walks one schema."""

    def __init__(self, root: Any) -> None:
        self.root = root
        named = root.get("$schema", "") if isinstance(root, dict) else ""
        self.multiple = 1
        self.old = isinstance(named, str) and any(f"draft-0{n}" in named for n in (3, 4, 6, 7))

    def read(self, schema: Any, place: str, depth: int) -> Any:
        """`schema`, which stands at `place`, checked and prepared."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise RequestError(f"{place} is {json.dumps(schema)[:60]}; a schema is an object, true or false")
        if depth > MAX_DEPTH:
            raise RequestError(f"{place[:200]}... is nested too deeply: {MAX_DEPTH} schemas inside of each other")
        made = {}
        for keyword, value in schema.items():
            self._check(schema, keyword, place)
            made[keyword] = self._read_value(keyword, value, f"{place}.{keyword}", depth + 1)
        if "oneOf" in made:
            self._exclusive(schema["oneOf"], f"{place}.oneOf")
            if "anyOf" in made:  # both hold
                made["allOf"] = [*made.get("allOf", ()), {"anyOf": made.pop("oneOf")}]
            else:
                made = {("anyOf" if keyword == "oneOf" else keyword): value for keyword, value in made.items()}
        return made

    def _read_value(self, keyword: str, value: Any, place: str, depth: int) -> Any:
        kind = KEYWORDS.get(keyword, VALUE)
        if kind == NAMED and isinstance(value, dict):
            return {name: self.read(item, f"{place}.{name}", depth) for name, item in value.items()}
        if isinstance(value, list) and (kind == SCHEMAS or (keyword == "items" and self.old)):
            return [self.read(item, f"{place}[{i}]", depth) for i, item in enumerate(value)]
        if kind in (NAMED, SCHEMAS):
            raise RequestError(f"{place} must be {'an object' if kind == NAMED else 'a list'} of schemas")
        if keyword == "items" and isinstance(value, list):
            raise RequestError(f"{place} is a list", "that is how older drafts wrote tuples", "write prefixItems")
        return self.read(value, place, depth) if kind == SCHEMA else value

    def _check(self, schema: dict[str, Any], keyword: str, place: str) -> None:
        """RequestError for a keyword that the backend would ignore, or take for something else."""
        value = schema[keyword]
        if keyword in UNSUPPORTED:
            raise RequestError(f"{place}.{keyword} is not supported", fix=UNSUPPORTED[keyword] or _leave_out(keyword))
        if keyword not in KEYWORDS and keyword not in ANNOTATIONS and not keyword.startswith("x-"):
            near = difflib.get_close_matches(keyword, [*KEYWORDS, *ANNOTATIONS], n=3, cutoff=0.6)
            meant = f"did you mean {' or '.join(near)}?" if near else _leave_out(keyword)
            raise RequestError(f"{place}.{keyword} is no keyword of JSON Schema", "it would be ignored", meant)
        if keyword in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool):
            raise RequestError(f"{place}.{keyword} is {value}", "that is draft 4's form", "write the bound itself")
        if keyword == "additionalItems" and not isinstance(schema.get("items"), list):
            raise RequestError(
                f"{place}.additionalItems has no list of items before it", fix="write prefixItems and items"
            )
        if keyword == "multipleOf" and isinstance(value, (int, float)) and not isinstance(value, bool):
            self.multiple = math.lcm(self.multiple, _coefficient(value) or 1)
            if self.multiple > MAX_MULTIPLE:
                raise RequestError(
                    f"{place}.multipleOf is {value}: the multiples of this schema have {self.multiple} remainders in common",
                    f"{MAX_MULTIPLE} can be told apart",
                    "give rounder numbers, or check it afterwards",
                )
        if keyword == "minProperties" and isinstance(value, int):
            required = schema.get("required", [])
            if isinstance(required, list) and value > len(required) + 1:
                raise RequestError(
                    f"{place}.minProperties is {value}, and {len(required)} properties are required",
                    "a grammar cannot tell whether free names differ, so one more than the required ones can be asked for",
                    "name the properties and require them",
                )

    def _exclusive(self, alternatives: list[Any], place: str) -> None:
        """RequestError unless no value fits two of the alternatives, so that oneOf is anyOf."""
        for i, one in enumerate(alternatives):
            for k, other in enumerate(alternatives[:i]):
                if not disjoint(one, other, self.root):
                    raise RequestError(
                        f"{place} is not supported here: a value may fit both [{k}] and [{i}], as far as can be told",
                        "a grammar cannot exclude what fits both",
                        "write anyOf, or tell the alternatives apart: by type, or by a required property with other constants",
                    )


def _coefficient(value: float) -> int:
    """The digits of a number without the zeros at its end: 25 of 0.25, 3 of 300."""
    return int("".join(map(str, decimal.Decimal(str(value)).normalize().as_tuple().digits)))


def _leave_out(keyword: str) -> str:
    return f"leave {keyword} out, and check it afterwards"


def leaves(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The expressions and formats of a schema, each with its place and as a schema of its own: to find which is refused."""

    def walk(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if not isinstance(schema, dict):
            return
        for keyword, value in schema.items():
            kind, at = KEYWORDS.get(keyword), f"{place}.{keyword}"
            if keyword in ("pattern", "format"):
                yield at, {"type": "string", keyword: value}
            if keyword == "patternProperties" and isinstance(value, dict):
                for name in value:
                    yield f"{at}.{name}", {"type": "object", keyword: {name: True}}
            if kind == NAMED and isinstance(value, dict):
                for name, item in value.items():
                    yield from walk(item, f"{at}.{name}")
            elif isinstance(value, list) and kind in (SCHEMA, SCHEMAS):
                for i, item in enumerate(value):
                    yield from walk(item, f"{at}[{i}]")
            elif kind == SCHEMA:
                yield from walk(value, at)

    yield from walk(json.loads(text), "json")
