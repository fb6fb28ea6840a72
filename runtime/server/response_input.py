"""The body of /v1/responses as that of a chat, which says the same in other words."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from .errors import ServerError, invalid
from .schema.chat import ChatRequest
from .schema.responses import FunctionChoice, InputCall, InputCallOutput, InputPart, ResponseRequest, TextFormat
from .schema.sampling import Sampling

OWN = ("max_tokens", "n", "prompt_logprobs", "stream_options")
"""Fields of Sampling that the body has in its own way."""


def as_chat(body: ResponseRequest) -> ChatRequest:
    """The chat that the body asks for. ServerError for an answer to go on from: none is kept."""
    if body.previous_response_id is not None:
        raise ServerError(
            400,
            "previous_response_id names an answer, and this server keeps none; send the whole conversation as input",
            param="previous_response_id",
            code="unsupported",
        )
    given: dict[str, Any] = {
        name: getattr(body, name) for name in (*Sampling.model_fields, "chat_template_kwargs") if name not in OWN
    }
    choice: Any = body.tool_choice
    if isinstance(choice, FunctionChoice):
        choice = {"type": "function", "function": {"name": choice.name}}
    tools = [{"type": "function", "function": tool.model_dump(exclude={"type"})} for tool in body.tools or ()]
    given |= {
        "messages": messages(body),
        "max_completion_tokens": body.max_output_tokens,
        "tools": tools or None,
        "tool_choice": choice,
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _response_format(body.text.format if body.text else None),
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
    }
    try:
        return ChatRequest.model_validate(given)
    except ValidationError as error:  # as with one message more than there may be, which are the instructions
        raise invalid([{**found, "loc": ("body", *found["loc"])} for found in error.errors()]) from error


def messages(body: ResponseRequest) -> list[Any]:
    """The conversation. Calls that stand one behind the other are of one message, and so is a text before them."""
    found: list[dict[str, Any]] = []
    if body.instructions is not None:
        found.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*found, {"role": "user", "content": body.input}]
    for item in body.input:
        if isinstance(item, InputCall):
            if not found or found[-1]["role"] != "assistant":
                found.append({"role": "assistant", "content": None})
            function = {"name": item.name, "arguments": item.arguments}
            found[-1].setdefault("tool_calls", []).append(
                {"id": item.call_id, "type": "function", "function": function}
            )
        elif isinstance(item, InputCallOutput):
            found.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        else:
            found.append({"role": item.role, "content": _text(item.content)})
    return found


def _text(content: str | list[InputPart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text if part.text is not None else part.refusal or "" for part in content)


def _response_format(wanted: TextFormat | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    if wanted.schema_ is None:
        raise ServerError(
            400, "text.format of type json_schema has no schema", param="text.format.schema", code="missing"
        )
    return {"type": "json_schema", "json_schema": {"name": wanted.name or "answer", "schema": wanted.schema_}}
