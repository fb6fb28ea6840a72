"""Bodies and answers of the smaller endpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from .base import MAX_MESSAGES, Int, Strict, TokenId, Usage
from .chat import ChatMessage, Tool
from .completions import Prompts


class EmbeddingRequest(Strict):
    """Texts or token ids, for their embeddings."""

    input: Prompts
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[Int, Field(ge=1)] | None = Field(None, description="That of the model; there is no other.")
    pooling: Literal["mean", "cls", "last", "pooler"] | None = Field(None, description="The model's own where absent.")
    normalize: bool | None = None
    truncate_prompt_tokens: Annotated[Int, Field(ge=-1)] | None = Field(
        None,
        description="Cut inputs to so many tokens; -1 is what the model's makers or the model allow. Absent: refuse them.",
    )
    user: str | None = None


class Embedding(TypedDict):
    """One vector, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(TypedDict):
    """The answer to an EmbeddingRequest."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class TokenizeRequest(Strict):
    """A text or a conversation, for its token ids."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[Tool], Field(max_length=1024)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class TokenizeAnswer(TypedDict):
    """Token ids."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: NotRequired[list[str]]


class DetokenizeRequest(Strict):
    """Token ids, for their text."""

    model: str | None = None
    tokens: list[TokenId]


class DetokenizeAnswer(TypedDict):
    """A text."""

    prompt: str


class ModelCard(TypedDict):
    """A name of the model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(TypedDict):
    """All names."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(TypedDict):
    """Whether requests are served; with 503 they are not."""

    status: Literal["ok", "draining", "dead"]


class Version(TypedDict):
    """Heddle's."""

    version: str
