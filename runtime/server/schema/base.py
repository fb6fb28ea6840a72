"""What all bodies have in common: fields that do not exist are refused with the nearest that do; errors as OpenAI has them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, model_validator
from typing_extensions import TypedDict

from ...parameters import check_keywords

SHOWN = 3
"""Fields that do not exist, named in a message."""
MAX_MESSAGES = 1 << 14
"""Messages of a conversation, or its items."""


class Strict(BaseModel):
    """A JSON object of a request. Types are not converted; null stands for a field that is not given, where it may."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _only_fields(cls, given: Any) -> Any:
        if isinstance(given, dict):
            fields = [field.alias or name for name, field in cls.model_fields.items()]
            unknown = itertools.islice(itertools.filterfalse(frozenset(fields).__contains__, given), SHOWN)
            check_keywords("the request", [name[:64] for name in unknown], fields)
        return given


def _whole(value: Any) -> Any:
    """5.0 as 5: JSON has one kind of numbers, and some clients write all of them so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_whole)]
"""An integer of JSON."""


def forms(message: str, choose: Callable[[Any], str | None]) -> Discriminator:
    """Says which form of a union a value has, so that an error is about that form alone; `message` is for none of them."""
    return Discriminator(choose, custom_error_type="form", custom_error_message=message)


TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Name = Annotated[str, Field(max_length=1024)]


class ErrorFields(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """An answer that is none."""

    error: ErrorFields


class PromptDetails(TypedDict):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class Usage(TypedDict):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[PromptDetails]


def usage(prompt: int, completion: int, cached: int | None = None) -> Usage:
    """The usage of so many tokens; `cached` of the prompt came from the prefix cache (None: nobody knows yet)."""
    found = Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
    if cached is not None:
        found["prompt_tokens_details"] = {"cached_tokens": cached}
    return found
