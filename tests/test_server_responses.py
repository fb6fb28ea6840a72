"""/v1/responses by the official client, and calls of tools there and in chats, with texts that are known and with the engine's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from heddle.runtime.errors import HeddleError

from .llm_tools import null_artifact
from .scripted import Scripted
from .server_tools import running

TEMPLATE = """{%- for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{%- endfor %}{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}<|im_start|>assistant{{ reasoning_effort }} """
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "description": "How it is there", "parameters": CITY}
CHAT_TOOLS: Any = [{"type": "function", "function": FUNCTION}]
TOOLS: Any = [{"type": "function", "strict": True, **FUNCTION}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
ASK: Any = [{"role": "user", "content": "How is Rome?"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scripted, openai.OpenAI]]:
    with pytest.MonkeyPatch.context() as patch:
        folder = null_artifact(tmp_path_factory.mktemp("null"), patch)
        with (
            Scripted(folder, chat_template=TEMPLATE) as model,
            running(model, names=("test",)) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client,
        ):
            yield model, client


@pytest.fixture
def model(served: tuple[Scripted, openai.OpenAI]) -> Scripted:
    model = served[0]
    model.pieces, model.reason, model.error, model.asked = ["Fine", ", I", " say."], "stop", None, None
    return model


@pytest.fixture
def client(served: tuple[Scripted, openai.OpenAI]) -> openai.OpenAI:
    return served[1]


def real(model: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers by the engine."""
    monkeypatch.setattr(Scripted, "generate", Scripted.__mro__[1].generate)


def test_a_text(model: Scripted, client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="test", input="Hi", instructions="Be brief.", max_output_tokens=9, temperature=0.5, metadata={"a": "b"}
    )
    assert (answer.output_text, answer.status, answer.error, answer.incomplete_details) == (
        "Fine, I say.",
        "completed",
        None,
        None,
    )
    assert answer.id.startswith("resp_")
    assert answer.output[0].id.startswith("msg_")  # type: ignore[union-attr]
    assert (answer.temperature, answer.max_output_tokens, answer.metadata) == (0.5, 9, {"a": "b"})
    assert answer.usage is not None
    assert (answer.usage.output_tokens, answer.usage.input_tokens_details.cached_tokens) == (3, 16)
    assert answer.usage.total_tokens == answer.usage.input_tokens + 3
    assert model.asked is not None
    assert model.asked[0] == "<|im_start|>system Be brief.<|im_end|><|im_start|>user Hi<|im_end|><|im_start|>assistant "
    assert model.asked[1].max_tokens == 9
    model.reason = "length"
    cut = client.responses.create(model="test", input="Hi")
    assert (cut.status, cut.output[0].status) == ("incomplete", "incomplete")  # type: ignore[union-attr]
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    model.pieces = []
    assert client.responses.create(model="test", input="Hi").output_text == ""


def test_items(model: Scripted, client: openai.OpenAI) -> None:
    """What the model has said and called goes back in the form in which it came."""
    model.pieces = ["I look.", CALL]
    talk: Any = [
        {"role": "developer", "content": "D"},
        {"role": "user", "content": [{"type": "input_text", "text": "U"}]},
    ]
    first = client.responses.create(model="test", input=talk, tools=TOOLS, reasoning={"effort": "low"})
    assert [item.type for item in first.output] == ["message", "function_call"]
    call: Any = first.output[1]
    assert (call.name, json.loads(call.arguments), call.status) == ("weather", {"city": "Rome"}, "completed")
    talk += first.output
    talk.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    model.pieces = ["Sunny."]
    assert client.responses.create(model="test", input=talk, tools=TOOLS).output_text == "Sunny."
    assert model.asked is not None
    assert model.asked[0] == (
        "<|im_start|>system D<|im_end|><|im_start|>user U<|im_end|><|im_start|>assistant I look."
        '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call><|im_end|><|im_start|>tool sunny<|im_end|>'
        "[weather]<|im_start|>assistant "
    )


def test_a_stream(model: Scripted, client: openai.OpenAI) -> None:
    model.pieces = ["I ", "look.\n", *CALL]
    with client.responses.stream(model="test", input="Hi", tools=TOOLS) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if not event.type.endswith("delta")]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "I look."
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert len(pieces) > 10
    assert "".join(pieces) == '{"city": "Rome"}'
    assert final.output_text == "I look."
    assert final.usage is not None
    assert final.usage.output_tokens == len(model.pieces)
    whole = client.responses.create(model="test", input="Hi", tools=TOOLS)
    assert [(i.type, getattr(i, "arguments", "")) for i in whole.output] == [
        (i.type, getattr(i, "arguments", "")) for i in final.output
    ]


def test_streams_that_end_early(model: Scripted, client: openai.OpenAI) -> None:
    model.reason = "length"
    last: Any = list(client.responses.create(model="test", input="Hi", stream=True))[-1]
    assert (last.type, last.response.status, last.response.output_text) == (
        "response.incomplete",
        "incomplete",
        "Fine, I say.",
    )
    model.error = HeddleError("the logits are not finite")
    last = list(client.responses.create(model="test", input="Hi", stream=True))[-1]
    assert (last.type, last.response.error.code) == ("response.failed", "server_error")
    assert "not finite" in last.response.error.message
    assert last.response.output_text == "Fine, I say."
    model.pieces = []
    with pytest.raises(openai.InternalServerError, match="not finite"):
        client.responses.create(model="test", input="Hi", stream=True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": "x"}] * (1 << 14), "instructions": "x"}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"background": True}, "background"),
        ({"maximal_output_tokens": 5}, None),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}, "tools": TOOLS}, None),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]}, None),
    ],
)
def test_bad_bodies(model: Scripted, client: openai.OpenAI, body: dict[str, Any], param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="test", **{"input": "Hi", "extra_body": body} if "input" not in body else body)
    assert caught.value.type == "invalid_request_error"
    if param:
        assert caught.value.param == param
    assert model.asked is None


def test_calls_in_chats(model: Scripted, client: openai.OpenAI) -> None:
    model.pieces = ["Hm. ", *CALL, "\n", *CALL]
    whole = client.chat.completions.create(model="test", messages=ASK, tools=CHAT_TOOLS).choices[0]
    assert (whole.message.content, whole.finish_reason) == ("Hm.", "tool_calls")
    assert whole.message.tool_calls is not None
    assert [json.loads(c.function.arguments) for c in whole.message.tool_calls if c.type == "function"] == [
        {"city": "Rome"}
    ] * 2
    with client.chat.completions.stream(model="test", messages=ASK, tools=CHAT_TOOLS) as stream:
        streamed = stream.until_done().get_final_completion().choices[0]
    assert (streamed.message.content, streamed.finish_reason) == ("Hm.", "tool_calls")
    assert [c.function.arguments for c in streamed.message.tool_calls or ()] == ['{"city": "Rome"}'] * 2
    single = client.chat.completions.create(model="test", messages=ASK, tools=CHAT_TOOLS, parallel_tool_calls=False)
    assert len(single.choices[0].message.tool_calls or ()) == 1
    talk = [*ASK, whole.message.model_dump(), {"role": "tool", "tool_call_id": "x", "content": "sunny"}]
    hidden = client.chat.completions.create(model="test", messages=talk, tools=CHAT_TOOLS, tool_choice="none").choices[
        0
    ]
    assert hidden.message.content == "".join(model.pieces)
    assert hidden.message.tool_calls is None
    assert model.asked is not None
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>' in model.asked[0]
    assert "[weather]" not in model.asked[0]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_the_engine_has_to_call(
    model: Scripted, client: openai.OpenAI, choice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the model would say, it calls a function, with arguments by their schema."""
    real(model, monkeypatch)
    options: Any = {"model": "test", "tools": CHAT_TOOLS, "parallel_tool_calls": False, "max_tokens": 120, "seed": 1}
    answer = client.chat.completions.create(messages=ASK, tool_choice=choice, **options).choices[0]
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
    (call,) = answer.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    response = client.responses.create(
        model="test", input="How is Rome?", tools=TOOLS, tool_choice={"type": "function", "name": "weather"}
    )
    assert [item.type for item in response.output] == ["function_call"]


def test_parameters_that_leave_no_token(
    model: Scripted, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the client's mistake, which shows on the way only."""
    real(model, monkeypatch)
    for body in (
        {"allowed_token_ids": [2], "min_tokens": 4},
        {"structured_outputs": {"choice": ["a"]}, "bad_words": ["a"]},
    ):
        with pytest.raises(openai.BadRequestError, match="no token is left"):
            client.completions.create(model="test", prompt="x", extra_body=body)


def test_the_engine_writes_by_a_schema(model: Scripted, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    real(model, monkeypatch)
    wanted: Any = {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}}
    answer = client.responses.create(model="test", input="How is Rome?", text=wanted)
    assert json.loads(answer.output_text)["city"] in ("Paris", "Rome")
