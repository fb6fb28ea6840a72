"""What a text has to be: the field `structured` of SamplingParams. The names are those of vLLM's structured outputs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import RequestError
from ..parameters import check_keywords

KINDS = ("json", "json_object", "regex", "choice", "grammar")
MAX_TEXT = 1 << 20
"""Characters of a schema, an expression, a grammar or all choices together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Structured:
    """What a text has to match as a whole. Exactly one of the first five is given.

    json: a JSON schema, as a mapping, True, or JSON text; stored as text. json_object: any JSON object.
    regex: a regular expression (the syntax of Rust's `regex`, without look-around).
    choice: one of these texts.
    grammar: a context-free grammar, in Lark's syntax as llguidance has it, or in GBNF (known by its `::=`).
    disable_any_whitespace: JSON stands on one line, with a space after each comma and colon, instead of the model's layout.

    RequestError says what is wrong with a value; an unknown keyword raises UnknownOptionError.
    """

    json: str | bool | Mapping[str, Any] | None = None
    json_object: bool = False
    regex: str | None = None
    choice: Iterable[str] = ()
    grammar: str | None = None
    disable_any_whitespace: bool = False

    def __new__(cls, *args: Any, **options: Any) -> Structured:
        """Only checks the keywords; the fields are set by the generated __init__."""
        check_keywords(cls.__name__, options, [field.name for field in dataclasses.fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in ("json_object", "disable_any_whitespace"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"Structured.{name} is {getattr(self, name)!r}; allowed is True or False")
        if self.json is not None:
            object.__setattr__(self, "json", _schema_text(self.json))  # the fields are frozen
        for name in ("regex", "grammar"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                raise RequestError(f"Structured.{name} is {value!r}; allowed is a text that is not empty")
        object.__setattr__(self, "choice", _choices(self.choice))
        given = [name for name in KINDS if getattr(self, name) not in (None, False, ())]
        if len(given) != 1:
            raise RequestError(
                f"Structured has {' and '.join(given) or 'nothing that a text has to match'}",
                fix=f"give exactly one of {', '.join(KINDS)}",
            )
        if self.disable_any_whitespace and self.kind not in ("json", "json_object"):
            raise RequestError(f"Structured.disable_any_whitespace is about JSON, and {self.kind} is given")
        if (size := sum(map(len, self.choice)) if self.choice else len(self.text)) > MAX_TEXT:
            raise RequestError(f"Structured.{self.kind} has {size} characters; allowed are {MAX_TEXT}")

    @classmethod
    def of(cls, value: Any) -> Structured:
        """A Structured, or a mapping of its fields, as a Structured."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise RequestError(
                f"structured is {value!r}; allowed is a Structured, or a mapping with one of {', '.join(KINDS)}"
            )
        return cls(**value)

    @property
    def kind(self) -> str:
        """Which of KINDS is given."""
        return next(name for name in KINDS if getattr(self, name) not in (None, False, ()))

    @property
    def text(self) -> str:
        """The schema, the expression or the grammar as text; "" for a JSON object and for choices."""
        found = getattr(self, self.kind)
        return found if isinstance(found, str) else ""


def _schema_text(schema: Any) -> str:
    """A JSON schema as compact JSON text, its keys in their order: it is the order of the properties that are generated."""
    what = "Structured.json"
    try:
        read = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(_plain(read), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()  # a lone surrogate is no text
    except RecursionError:
        raise RequestError(f"{what} is nested too deeply to be read") from None
    except (ValueError, TypeError) as error:
        raise RequestError(f"{what} is no JSON", str(error), "give a mapping or a text of JSON's values") from error
    if not isinstance(read, (Mapping, bool)):
        raise RequestError(f"{what} is {text[:80]}; a JSON schema is an object, true or false")
    return text


def _plain(value: Any) -> Any:
    """Mappings and sequences of any kind as dicts and lists, with texts as keys."""
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"a key is {wrong[0]!r}, and no text")
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _choices(value: Any) -> tuple[str, ...]:
    """The texts of `choice`, each once."""
    found = () if value is None else value
    if isinstance(found, (str, bytes, Mapping)) or not isinstance(found, Iterable):
        raise RequestError(f"Structured.choice is {value!r}; allowed is a list of texts")
    texts = tuple(dict.fromkeys(found))
    if wrong := [text for text in texts if not isinstance(text, str) or not text]:
        raise RequestError(f"Structured.choice has {wrong[0]!r}; allowed are texts that are not empty")
    if value is not None and not isinstance(value, tuple) and not texts:
        raise RequestError("Structured.choice is empty, so that nothing can be generated")
    return texts
