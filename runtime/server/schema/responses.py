"""Bodies and answers of /v1/responses: texts and calls of functions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator
from typing_extensions import TypedDict

from ...errors import RequestError
from .base import MAX_MESSAGES, Int, Name, Strict, forms
from .sampling import Sampling

Status = Literal["in_progress", "completed", "incomplete"]


class InputPart(Strict):
    """A part of a message: text is the only kind that there is. What OpenAI's answers have besides, clients send back."""

    type: Literal["input_text", "output_text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, given: Any) -> Any:
        kind = given.get("type") if isinstance(given, dict) else None
        if isinstance(kind, str) and kind not in ("input_text", "output_text", "refusal"):
            raise RequestError(f"a message has a part of type {kind[:64]!r}; this server takes text only")
        return given


def _list_or_text(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<list>" if isinstance(value, list) else None


Parts = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[InputPart], Tag("<list>")],
    forms("allowed is a text, or a list of parts", _list_or_text),
]


class InputMessage(Strict):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Parts
    type: Literal["message"] = "message"
    id: Name | None = None
    status: Status | None = None
    phase: str | None = None


class InputCall(Strict):
    """A call that the model made before."""

    type: Literal["function_call"]
    call_id: Name
    name: Name
    arguments: str
    id: Name | None = None
    status: Status | None = None


class InputCallOutput(Strict):
    """What a function gave."""

    type: Literal["function_call_output"]
    call_id: Name
    output: Parts
    id: Name | None = None
    status: Status | None = None


def _item_type(item: Any) -> str | None:
    """The type of an item; that of a message may be left out."""
    kind = item.get("type", "message") if isinstance(item, dict) else None
    return f"<{kind}>" if kind in ("message", "function_call", "function_call_output") else None


InputItem = Annotated[
    Annotated[InputMessage, Tag("<message>")]
    | Annotated[InputCall, Tag("<function_call>")]
    | Annotated[InputCallOutput, Tag("<function_call_output>")],
    forms("the type of an item is message, function_call or function_call_output here", _item_type),
]
Input = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES), Tag("<list>")],
    forms("allowed is a text, or a list of items", _list_or_text),
]


class FunctionTool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema of its arguments.")
    strict: bool | None = None


class FunctionChoice(Strict):
    """The function that the model has to call."""

    type: Literal["function"]
    name: Name


class TextFormat(Strict):
    """What the text has to be."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextOptions(Strict):
    """Of the text."""

    format: TextFormat | None = None
    verbosity: str | None = Field(None, description="Without an effect here.")


class Reasoning(Strict):
    """How hard to think: a variable of the chat template. Without a summary."""

    effort: str | None = None
    summary: None = None


class ResponseStreamOptions(Strict):
    """Of a stream; there is no obfuscation."""

    include_obfuscation: Literal[False] | None = None


class ResponseRequest(Sampling):
    """A text or items of a conversation, for its next turn. The server keeps none: all of it is sent every time."""

    input: Input
    instructions: str | None = Field(None, description="A system message before all others.")
    max_output_tokens: Annotated[Int, Field(ge=1, lt=1 << 63)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=1024)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables for the chat template.")
    previous_response_id: str | None = Field(None, description="Always an error: answers are not kept.")
    # As OpenAI has them, with the values that make no difference here.
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    include: Annotated[list[Any], Field(max_length=0)] | None = None
    conversation: None = None
    prompt: None = None
    max_tool_calls: None = None
    top_logprobs: Literal[0] | None = None
    # Of the other endpoints.
    n: Literal[1] | None = None
    max_tokens: None = None
    prompt_logprobs: None = None
    stream_options: ResponseStreamOptions | None = None  # type: ignore[assignment]


class OutputText(TypedDict):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(TypedDict):
    """A message of the model."""

    type: Literal["message"]
    id: str
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]


class OutputCall(TypedDict):
    """A call that the model makes; `arguments` is JSON text."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


class InputDetails(TypedDict):
    """Where the prompt's tokens came from."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(TypedDict):
    """What the generated tokens are."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Tokens of a request."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(TypedDict):
    """Why an answer ends early: max_output_tokens (or the context) is reached, or the timeout."""

    reason: Literal["max_output_tokens", "timeout"]


class ResponseError(TypedDict):
    """What went wrong on the way."""

    code: str
    message: str


class ResponseAnswer(TypedDict):
    """The answer, with the options that it was asked for by."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, Any]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, Any]
