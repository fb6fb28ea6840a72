"""Bodies and answers of /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, Tag, model_validator
from typing_extensions import TypedDict

from ...errors import RequestError
from ...sampling import MAX_LOGPROBS
from .base import MAX_MESSAGES, Int, Name, Strict, Usage, forms
from .sampling import Sampling


class TextPart(Strict):
    """A part of a message: text is the only kind that there is."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, given: Any) -> Any:
        kind = given.get("type") if isinstance(given, dict) else None
        if isinstance(kind, str) and kind not in ("text", "refusal"):
            raise RequestError(f"a message has a part of type {kind[:64]!r}; this server takes text only")
        return given


def _content_form(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<parts>" if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[TextPart], Tag("<parts>")],
    forms("a content is a text, or a list of parts", _content_form),
]


class CalledFunction(Strict):
    """The function of a call that the model made before."""

    name: Name
    arguments: str | dict[str, Any] = Field(description="A JSON object, or its text.")


class ToolCall(Strict):
    """A call that the model made before."""

    id: Name
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Int | None = None


class ChatMessage(Strict):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Name | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Name | None = None
    # What answers of OpenAI's have besides, and clients send back; only null is understood.
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class Function(Strict):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema of its arguments.")
    strict: bool | None = None


class Tool(Strict):
    """Something that the model may use."""

    type: Literal["function"]
    function: Function


class ChosenFunction(Strict):
    """The name of a function."""

    name: Name


class ToolChoice(Strict):
    """The function that the model has to call."""

    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(Strict):
    """A JSON schema with a name."""

    name: Name
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """What the text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Sampling):
    """A conversation, for its next turn."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[Int, Field(ge=1, lt=1 << 63)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=1024)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables for the chat template.")
    add_generation_prompt: bool | None = None
    reasoning_effort: str | None = Field(None, description="A variable for the chat template.")
    modalities: list[Literal["text"]] | None = None


class TopLogprob(TypedDict):
    """A token with its log probability."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """The chosen token, and the most likely ones."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Log probabilities of a text's tokens."""

    content: list[TokenLogprob]


class FunctionAnswer(TypedDict):
    """The function of a call; `arguments` is JSON text."""

    name: str
    arguments: str


class CallAnswer(TypedDict):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: FunctionAnswer


class MessageAnswer(TypedDict):
    """The turn of the model."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[CallAnswer]]


class ChatChoice(TypedDict):
    """One sample. `stop_reason` is the stop text or stop token that ended it."""

    index: int
    message: MessageAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "timeout"]
    stop_reason: str | int | None


class ChatAnswer(TypedDict):
    """The answer to a ChatRequest that does not stream."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: NotRequired[list[dict[str, Any] | None]]
