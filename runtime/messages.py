"""Conversations as people send them, in the form that chat templates read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import RequestError


def for_template(messages: Sequence[Any]) -> list[Any]:
    """The messages, with the arguments of tool calls as objects, and content that is missing beside them as "".

    OpenAI's clients send arguments as JSON text; published templates print them with `tojson`, which would quote it once
    more. RequestError for arguments that are no JSON object.
    """
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: Any, where: str) -> Any:
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    if calls is None:
        return message
    if isinstance(calls, (str, bytes, Mapping)) or not isinstance(calls, Sequence):
        raise RequestError(f"{where}.tool_calls is a {type(calls).__name__}; it must be a list of calls")
    if not calls:  # templates ask whether there is the key
        return {key: value for key, value in message.items() if key != "tool_calls"}
    calls = [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    content = message.get("content")
    return {**message, "content": "" if content is None else content, "tool_calls": calls}


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None  # templates take both forms
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"{where} has no function with a name", fix="send the call as the model's answer had it")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{where}: the arguments of {function['name']!r} are no JSON", str(error)) from error
    if not isinstance(arguments, Mapping):
        raise RequestError(f"{where}: the arguments of {function['name']!r} must be a JSON object")
    if function is call:
        return {**call, "arguments": arguments}
    return {**call, "function": {**function, "arguments": arguments}}
