"""Bodies and answers of /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, Tag
from typing_extensions import TypedDict

from ...sampling import MAX_LOGPROBS
from .base import Int, TokenId, Usage, forms
from .chat import ResponseFormat
from .sampling import MAX_SAMPLES, Sampling


def _form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list):
        return None
    first = value[0] if value else None
    return "<texts>" if isinstance(first, str) else "<token lists>" if isinstance(first, list) else "<tokens>"


Prompts = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[str], Tag("<texts>")]
    | Annotated[list[TokenId], Tag("<tokens>")]
    | Annotated[list[list[TokenId]], Tag("<token lists>")],
    forms("allowed is a text, a list of texts, a list of token ids, or a list of those", _form),
]
"""One or several, as texts or token ids."""


class CompletionRequest(Sampling):
    """Prompts, for the texts after them."""

    prompt: Prompts
    best_of: Annotated[Int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    max_tokens: Annotated[Int, Field(ge=0, lt=1 << 63)] | None = Field(
        None, description="16 where it is not given; 0 with echo gives the prompt alone."
    )
    logprobs: Annotated[Int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = Field(None, description="Begin the text with the prompt.")
    suffix: Annotated[str, Field(max_length=0)] | None = Field(None, description="There is none.")
    add_special_tokens: bool | None = None
    response_format: ResponseFormat | None = None


class CompletionLogprobs(TypedDict):
    """Of each token: its text, log probability, the most likely ones, and the character at which it begins."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One sample of one prompt: index is that of the prompt times n, plus that of the sample."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "timeout"]
    stop_reason: str | int | None
    prompt_logprobs: NotRequired[list[dict[str, Any] | None]]


class CompletionAnswer(TypedDict):
    """The answer to a CompletionRequest that does not stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
