"""From the body of a chat to what the model is given: token ids, parameters, and how calls of tools are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..sampling import SamplingParams
from .errors import ServerError
from .formats import structured
from .schema.chat import ChatMessage, ChatRequest, Tool
from .service import Service
from .tools import ToolFormat, ToolParser

RESERVED = ("messages", "tools", "self")
"""Names that are no variables of a chat template."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a chat asks for: the prompt `ids`, how to go on, and how calls of the functions `names` are written.

    `form` is None where the text is an answer as it stands. Without `parallel` only the first call counts.
    """

    ids: list[int]
    params: SamplingParams
    form: ToolFormat | None = None
    names: tuple[str, ...] = ()
    parallel: bool = True

    def parser(self) -> ToolParser | None:
        """A parser for one sample."""
        return self.form.parser(self.names) if self.form else None


async def turn(service: Service, body: ChatRequest) -> Turn:
    """The turn that a body asks for. RequestError or ServerError where it cannot be had."""
    variables = template_variables(
        body.chat_template_kwargs,
        add_generation_prompt=body.add_generation_prompt,
        reasoning_effort=body.reasoning_effort,
    )
    choice: Any = body.tool_choice if isinstance(body.tool_choice, str) else None
    if body.tool_choice is not None and choice is None:
        choice = body.tool_choice.model_dump()  # type: ignore[union-attr]
    if choice not in (None, "none", "auto") and not body.tools:
        raise ServerError(400, "tool_choice needs tools", param="tool_choice", code="invalid_value")
    tools = plain_tools(body.tools) if body.tools and choice != "none" else None
    form, parallel, own = service.tools if tools else None, body.parallel_tool_calls is not False, _own(body)
    if tools and choice not in (None, "auto"):
        if form is None:
            why = "the format of this model's calls is not known; start the server with --tools FORMAT"
            raise ServerError(400, f"tool_choice cannot be kept: {why}", param="tool_choice", code="unsupported")
        if "structured" in own or body.structured_outputs is not None:
            why = "a call and a format of the text are both asked for"
            raise ServerError(400, why, param="tool_choice", code="invalid_value")
        own["structured"] = form.constraint(tools, choice, parallel)
    if form is not None and form.special:
        own["skip_special_tokens"] = False
    params = body.params(**own)
    ids = await service.conversation(plain_messages(body.messages), tools, variables)
    names = tuple(tool["function"]["name"] for tool in tools or ())
    return Turn(ids, params, form, names, parallel)


def _own(body: ChatRequest) -> dict[str, Any]:
    """Parameters that a chat has in its own way. Its length is bounded by the context alone where it does not say."""
    if body.top_logprobs and not body.logprobs:
        raise ServerError(400, "top_logprobs needs logprobs to be true", param="top_logprobs", code="invalid_value")
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    own: dict[str, Any] = {"max_tokens": most, **structured(body.response_format, body.structured_outputs)}
    if body.logprobs:
        own["logprobs"] = body.top_logprobs or 0
    return own


def template_variables(given: Mapping[str, Any] | None, **others: Any) -> dict[str, Any]:
    """Variables for the chat template: `given` by the body, and those `others` that are not None."""
    found = dict(given or {})
    for name in RESERVED:
        if name in found:
            why = f"chat_template_kwargs has {name!r}, which is no variable"
            raise ServerError(400, why, param="chat_template_kwargs", code="invalid_value")
    return found | {name: value for name, value in others.items() if value is not None}


def plain_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Tools as chat templates know them."""
    return [tool.model_dump(exclude_none=True) for tool in tools]


def plain_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates know them: contents are texts, and developers are the system."""
    found = []
    for message in messages:
        role = "system" if message.role == "developer" else message.role
        plain: dict[str, Any] = {"role": role, "content": content_text(message)}
        for name in ("name", "tool_call_id"):
            if (value := getattr(message, name)) is not None:
                plain[name] = value
        if message.tool_calls:
            plain["tool_calls"] = [call.model_dump(exclude={"index"}) for call in message.tool_calls]
        found.append(plain)
    return found


def content_text(message: ChatMessage) -> str:
    """The text of a message, its parts a line each."""
    if message.content is None:
        return message.refusal or ""
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text if part.text is not None else part.refusal or "" for part in message.content)
