"""The official client, unchanged, against a server of the example model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import openai
import pytest

from heddle import LLM, AsyncLLM, SamplingParams

from .async_tools import check_idle, wait_until
from .server_tools import TOOL_TEMPLATE, Running, running

TALK: Any = [{"role": "user", "content": "What is a page table?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def server(tinydoc: Path) -> Iterator[Running]:
    model = AsyncLLM(tinydoc, threads=2, chat_template=TOOL_TEMPLATE)
    with running(model) as found:
        yield found
    model.shutdown(drain=True)
    check_idle(model)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def llm(tinydoc: Path) -> LLM:
    return LLM(tinydoc, threads=2, chat_template=TOOL_TEMPLATE)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tinydoc", "other"]
    assert client.models.retrieve("other").model_dump()["max_model_len"] == 2048


def test_chat(client: openai.OpenAI, llm: LLM) -> None:
    answer = client.chat.completions.create(model="tinydoc", messages=TALK, seed=3, max_completion_tokens=12)
    (expected,) = llm.chat(TALK, SamplingParams(seed=3, max_tokens=12))
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected.outputs[0].text)
    assert choice.finish_reason == expected.outputs[0].finish_reason
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)
    assert answer.usage.completion_tokens == len(expected.outputs[0].token_ids)
    turns = [
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "short."}]},
        *TALK,
        choice.message,
        {"role": "user", "content": "Why?"},
    ]
    other = client.chat.completions.create(model="other", messages=turns, seed=3, max_tokens=5)
    plain = [
        {"role": "system", "content": "Be\nshort."},
        *TALK,
        {"role": "assistant", "content": choice.message.content},
        turns[-1],
    ]
    assert other.choices[0].message.content == llm.chat(plain, SamplingParams(seed=3, max_tokens=5))[0].outputs[0].text
    assert other.model == "other"


def test_streams_have_the_same_text(client: openai.OpenAI) -> None:
    options: Any = {"model": "tinydoc", "messages": TALK, "seed": 5, "n": 3, "max_tokens": 16, "stop": [" the"]}
    whole = client.chat.completions.create(**options)
    texts, reasons, used = ["", "", ""], [""] * 3, []
    with client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] = choice.finish_reason or ""
            used.append(chunk.usage)
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert len(set(texts)) == 3, "samples differ"
    assert whole.usage is not None
    assert used[-1] is not None
    assert not any(used[:-1])
    assert used[-1].completion_tokens == whole.usage.completion_tokens
    pieces = client.completions.create(model="tinydoc", prompt=["A page", "Once"], seed=5, max_tokens=9, stream=True)
    found = ["", ""]
    for piece in pieces:
        found[piece.choices[0].index] += piece.choices[0].text
    both = client.completions.create(model="tinydoc", prompt=["A page", "Once"], seed=5, max_tokens=9)
    assert found == [choice.text for choice in both.choices]


def test_completions(client: openai.OpenAI, llm: LLM) -> None:
    ids = llm.needed_tokenizer().encode("The cache is")
    params = SamplingParams(seed=2, n=2, max_tokens=6)
    expected = [output.text for output in llm.generate("The cache is", params)[0].outputs]
    prompts: list[Any] = ["The cache is", ids, ["The cache is"], [ids]]
    for prompt in prompts:
        found = client.completions.create(model="tinydoc", prompt=prompt, seed=2, n=2, max_tokens=6)
        assert [choice.text for choice in found.choices] == expected
    fields = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "priority": 1, "cache_salt": "x", "bad_words": ["a"]}
    found = client.completions.create(model="tinydoc", prompt="The", seed=2, logit_bias={"5": -3}, extra_body=fields)
    own = SamplingParams(
        seed=2, top_k=5, min_p=0.1, repetition_penalty=1.2, bad_words=["a"], logit_bias={5: -3}, max_tokens=16
    )
    assert found.choices[0].text == llm.generate("The", own)[0].outputs[0].text
    best = client.completions.create(model="tinydoc", prompt="The", seed=2, best_of=3, max_tokens=5)
    assert (
        best.choices[0].text == llm.generate("The", SamplingParams(seed=2, best_of=3, max_tokens=5))[0].outputs[0].text
    )


def test_logprobs(client: openai.OpenAI, llm: LLM) -> None:
    chat = client.chat.completions.create(
        model="tinydoc", messages=TALK, seed=1, max_tokens=5, logprobs=True, top_logprobs=2
    )
    (expected,) = llm.chat(TALK, SamplingParams(seed=1, max_tokens=5, logprobs=2))
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == chat.choices[0].message.content
    for entry, token, table in zip(
        logprobs.content, expected.outputs[0].token_ids, expected.outputs[0].logprobs or [], strict=True
    ):
        assert entry.logprob == table[token].logprob
        best = sorted(table.values(), key=lambda value: value.rank or 0)[:2]
        assert [top.token for top in entry.top_logprobs] == [value.decoded_token for value in best]
    streamed = []
    for chunk in client.chat.completions.create(
        model="tinydoc", messages=TALK, seed=1, max_tokens=5, logprobs=True, stream=True
    ):
        for choice in chunk.choices:
            if choice.logprobs and choice.logprobs.content:
                streamed += [entry.logprob for entry in choice.logprobs.content]
    assert streamed == [entry.logprob for entry in logprobs.content]
    # Scores of a given text, as lm-eval asks for them.
    scored = client.completions.create(model="tinydoc", prompt="A page is here", max_tokens=1, logprobs=1, echo=True)
    (own,) = llm.generate("A page is here", SamplingParams(max_tokens=1, prompt_logprobs=1, logprobs=1, temperature=0))
    table = scored.choices[0].logprobs
    assert table is not None
    assert table.token_logprobs is not None
    wanted = [t and t[i].logprob for i, t in zip(own.prompt_token_ids, own.prompt_logprobs or [], strict=True)]
    assert table.token_logprobs[: len(wanted)] == wanted
    assert len(table.token_logprobs) == len(wanted) + 1
    assert "".join(table.tokens or ()) == scored.choices[0].text
    alone = client.completions.create(model="tinydoc", prompt="A page is here", max_tokens=0, logprobs=1, echo=True)
    assert alone.choices[0].text == "A page is here"
    assert alone.choices[0].logprobs is not None
    assert alone.choices[0].logprobs.token_logprobs == wanted


def test_json_schema(client: openai.OpenAI) -> None:
    schema = WEATHER["function"]["parameters"]
    form: Any = {"type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": schema}}
    answer = client.chat.completions.create(model="tinydoc", messages=TALK, temperature=0, response_format=form)
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)
    body: Any = {"structured_outputs": {"choice": ["left", "right"]}}
    answer = client.chat.completions.create(model="tinydoc", messages=TALK, extra_body=body)
    assert answer.choices[0].message.content in ("left", "right")
    form["json_schema"]["schema"] = {"type": "string", "contentMediaType": "x", "pattern": "(?=a)b"}
    with pytest.raises(openai.BadRequestError, match="pattern"):
        client.chat.completions.create(model="tinydoc", messages=TALK, response_format=form)


def test_tools(client: openai.OpenAI) -> None:
    options: Any = {"model": "tinydoc", "tools": [WEATHER], "seed": 2, "max_tokens": 80, "parallel_tool_calls": False}
    answer = client.chat.completions.create(messages=TALK, tool_choice="required", **options)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    name, arguments, reason = "", "", None
    for chunk in client.chat.completions.create(messages=TALK, tool_choice="required", stream=True, **options):
        for piece in chunk.choices[0].delta.tool_calls or ():
            assert piece.function is not None
            name += piece.function.name or ""
            arguments += piece.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    assert (name, arguments, reason) == ("weather", call.function.arguments, "tool_calls")
    turns = [*TALK, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    again = client.chat.completions.create(messages=turns, tool_choice="none", **options)
    assert again.choices[0].message.content
    assert not again.choices[0].message.tool_calls
    with pytest.raises(openai.BadRequestError, match="'wether'"):
        client.chat.completions.create(
            messages=TALK, tool_choice={"type": "function", "function": {"name": "wether"}}, **options
        )


def test_embeddings(client: openai.OpenAI, llm: LLM) -> None:
    expected = llm.embed(["a page", "a table"])
    for form in ("float", None):  # without one, the client asks for base64 and decodes it
        options: Any = {"encoding_format": form} if form else {}
        found = client.embeddings.create(model="tinydoc", input=["a page", "a table"], **options)
        assert np.array_equal(np.array([e.embedding for e in found.data], np.float32), expected)
    assert found.usage.prompt_tokens == sum(len(llm.needed_tokenizer().encode(t)) for t in ("a page", "a table"))
    with pytest.raises(openai.BadRequestError, match="dimensions is 7"):
        client.embeddings.create(model="tinydoc", input="x", dimensions=7)


def test_errors(client: openai.OpenAI) -> None:
    wrong: list[tuple[dict[str, Any], str | None, str, str | None]] = [
        ({"temperature": -1}, "temperature", "greater than or equal to 0", "invalid_value"),
        ({"extra_body": {"temprature": 1}}, "temprature", "did you mean temperature", "unknown_field"),
        ({"max_tokens": "7"}, "max_tokens", "valid integer", "invalid_type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "text only", "invalid_value"),
        ({"messages": []}, "messages", "at least 1", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "a " * 3000}]},
            None,
            "the context holds 2048",
            "context_length_exceeded",
        ),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs", "invalid_value"),
        ({"n": 2, "temperature": 0}, None, "asks for 2 answers", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids", "invalid_value"),
        ({"extra_body": {"stop_token_ids": [99999]}}, "stop_token_ids", "the model knows", "invalid_value"),
    ]
    for fields, param, message, code in wrong:
        with pytest.raises(openai.BadRequestError, match=message) as found:
            client.chat.completions.create(**{"model": "tinydoc", "messages": TALK, **fields})
        assert found.value.type == "invalid_request_error"
        assert found.value.code == code
        assert param is None or found.value.param == param
    with pytest.raises(openai.NotFoundError, match="'gpt' does not exist; served are: tinydoc, other"):
        client.chat.completions.create(model="gpt", messages=TALK)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
    with pytest.raises(openai.BadRequestError, match="no option 'jsn'"):
        client.completions.create(model="tinydoc", prompt="x", extra_body={"structured_outputs": {"jsn": 3}})


def test_timeouts_and_cancellation(server: Running, client: openai.OpenAI) -> None:
    body: Any = {"model": "tinydoc", "messages": TALK, "max_tokens": 1900, "extra_body": {"ignore_eos": True}}
    cut = client.chat.completions.create(**{**body, "extra_body": {"ignore_eos": True, "timeout": 0.05}})
    assert cut.choices[0].finish_reason == "timeout"
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.1).chat.completions.create(**body, n=8)
    server.wait_idle()
    begun = server.model.metrics.decode_tokens

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as other:
            stream = await other.chat.completions.create(**body, stream=True)
            async for _ in stream:
                break
            await stream.close()
            task = asyncio.ensure_future(other.chat.completions.create(**body))
            while server.model.metrics.running == 0:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    server.wait_idle()
    assert server.model.metrics.decode_tokens - begun < 3000, "they went on to their ends"
    wait_until(lambda: 'finished_reason="abort",model_name="tinydoc"} 0' not in server.ask("/metrics")[1], "no abort")
