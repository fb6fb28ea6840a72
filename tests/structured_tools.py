"""Grammars for tests: schemas of varied shape, made from a seed, and a matcher that needs no grammar."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

WORDS = ("name", "age", "id", "tags", "size", "kind", "page", "cache", "left", "right", "value", "notes")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")
PATTERNS = (r"^[a-z]{2,6}$", r"^[A-Z][a-z]{1,4}-\d{2}$", r"^(yes|no|maybe)$", r"^0x[0-9a-f]{1,4}$", r"^\+?\d{3,6}$")


class SchemaMaker:
    """Schemas whose values are short, so that a small model comes to their ends."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.kinds = [
            self.number,
            self.number,
            self.text,
            self.text,
            self.constant,
            self.object,
            self.array,
            self.either,
        ]

    def schema(self) -> dict[str, Any]:
        """A schema of an object; some refer to themselves."""
        made = self.object(0)
        if self.rng.random() < 0.25:
            node = {
                "type": "object",
                "properties": {
                    "value": self.number(2),
                    "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
            made["$defs"] = {"node": node}
            made["properties"]["list"] = {"$ref": "#/$defs/node"}
            made["required"] = [*made.get("required", []), "list"]
        return made

    def any(self, depth: int) -> dict[str, Any]:
        """One of all kinds, deep ones less likely inside."""
        kinds = self.kinds if depth < 3 else self.kinds[:5]
        return kinds[self.rng.integers(len(kinds))](depth)

    def object(self, depth: int) -> dict[str, Any]:
        """Some properties required, others not; most have no others."""
        rng = self.rng
        names = rng.choice(WORDS, int(rng.integers(1, 5 - depth)), replace=False).tolist()
        made: dict[str, Any] = {"type": "object", "properties": {name: self.any(depth + 1) for name in names}}
        made["required"] = [name for name in names if rng.random() < 0.7]
        if rng.random() < 0.9:
            made["additionalProperties"] = False
        else:
            made |= {"additionalProperties": {"type": "boolean"}, "maxProperties": len(names) + 2}
            made["required"] = names
        return made

    def array(self, depth: int) -> dict[str, Any]:
        """Of one kind, or a tuple."""
        if self.rng.random() < 0.3:
            return {
                "type": "array",
                "prefixItems": [self.any(depth + 1), self.number(depth)],
                "items": False,
                "minItems": 2,
            }
        low = int(self.rng.integers(0, 3))
        return {
            "type": "array",
            "items": self.any(depth + 1),
            "minItems": low,
            "maxItems": low + int(self.rng.integers(3)),
        }

    def number(self, depth: int) -> dict[str, Any]:
        """Bounded on both sides: inclusive, exclusive, fractional, multiples."""
        low = int(self.rng.integers(-1000, 1000))
        high = low + int(self.rng.integers(20, 2000))
        ways: list[dict[str, Any]] = [
            {"type": "integer", "minimum": low, "maximum": high},
            {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high},
            {"type": "integer", "minimum": low, "maximum": high, "multipleOf": 5},
            {"type": "number", "minimum": low + 0.5, "maximum": high + 0.25, "multipleOf": 0.25},
            {"type": "integer", "allOf": [{"minimum": low}, {"maximum": high}]},
        ]
        return ways[self.rng.integers(len(ways))]

    def text(self, depth: int) -> dict[str, Any]:
        """By length, pattern or format."""
        way = self.rng.integers(3)
        if way == 0:
            low = int(self.rng.integers(0, 4))
            return {"type": "string", "minLength": low, "maxLength": low + int(self.rng.integers(1, 12))}
        if way == 1:
            return {"type": "string", "pattern": str(self.rng.choice(PATTERNS))}
        return {"type": "string", "format": str(self.rng.choice(FORMATS)), "maxLength": 40}

    def constant(self, depth: int) -> dict[str, Any]:
        """Literal values of any type, or a boolean."""
        values: list[Any] = ["red", 'a "quoted" word', "Zürich 你", 3, -2.5, True, None, [1, "x"], {"k": []}]
        picked = [values[i] for i in self.rng.choice(len(values), 3, replace=False)]
        few = {"type": ["integer", "null"], "maximum": 9, "minimum": 0}
        return [{"enum": picked}, {"const": picked[0]}, {"type": "boolean"}, few][self.rng.integers(4)]

    def either(self, depth: int) -> dict[str, Any]:
        """Alternatives: any of some, or exactly one of those that a tag tells apart."""
        if self.rng.random() < 0.5:
            return {"anyOf": [self.any(depth + 1), self.number(depth)]}
        options = [self.object(2) for _ in range(2)]
        for i, option in enumerate(options):
            option["properties"] = {"kind": {"const": f"k{i}"}} | {
                name: value for name, value in option["properties"].items() if name != "kind"
            }
            option["required"] = list(dict.fromkeys(["kind", *option["required"]]))
        return {"oneOf": options}


class Hopper:
    """A matcher for the null device: what it allows and forces is a hash of the tokens so far, and it ends by that too."""

    def __init__(self, vocab: int, end_ids: Collection[int], forces: bool = True, seen: int = 1) -> None:
        self.vocab, self.end_ids, self.forces, self.seen = vocab, frozenset(end_ids), forces, seen

    def _hash(self, salt: int, below: int) -> int:
        return (self.seen * 2654435761 + salt * 40503) % 1_000_003 % below

    @property
    def finished(self) -> bool:
        return self._hash(1, 23) == 0

    def must(self) -> int | None:
        """The only token that may come next; None where several may."""
        return 3 + self._hash(2, self.vocab - 3) if self._hash(3, 3) else None

    def allowed(self) -> set[int]:
        """The tokens that may come next."""
        must = self.must()
        free = {3 + self._hash(4 + i, self.vocab - 3) for i in range(9)} | (
            set(self.end_ids) if self._hash(5, 4) == 0 else set()
        )
        return free if must is None else {must}

    def fill(self, row: np.ndarray) -> None:
        bits = np.zeros(len(row) * 32, bool)
        bits[sorted(self.allowed())] = True
        row[:] = np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token: int) -> None:
        assert token in self.allowed(), "a token that is not allowed"
        assert token not in self.end_ids, "an end token is no part of the text"
        self.seen = (self.seen * 31 + token + 7) % (1 << 40)

    def forced(self) -> list[int]:
        """Up to eleven tokens; none where it is told not to force."""
        ahead, found = Hopper(self.vocab, self.end_ids, self.forces, self.seen), []
        while self.forces and not ahead.finished and (token := ahead.must()) is not None and len(found) < 11:
            found.append(token)
            ahead.accept(token)
        return found

    def copy(self) -> Hopper:
        return Hopper(self.vocab, self.end_ids, self.forces, self.seen)


class Hops:
    """A grammar of Hoppers."""

    def __init__(self, vocab: int, forces: bool = True, seed: int = 1) -> None:
        self.vocab, self.forces, self.seed = vocab, forces, seed

    def matcher(self, end_ids: Collection[int]) -> Hopper:
        return Hopper(self.vocab, end_ids, self.forces, self.seed)
