"""/v1/chat/completions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..outputs import CompletionOutput
from .body import BodyRoute
from .conversation import Turn, turn
from .json_text import encode
from .logprobs import chat_logprobs, prompt_logprobs
from .responding import ERRORS, json_response, streaming
from .schema.base import usage
from .schema.chat import CallAnswer, ChatAnswer, ChatChoice, ChatRequest, MessageAnswer
from .service import Service, new_id
from .sse import DONE, respond, unless_gone
from .texts import Outputs, Sample, Texts, gather
from .tools import CallBegin, Content, Event, ToolParser, parse

router = APIRouter(route_class=BodyRoute)


@router.post("/v1/chat/completions", responses=streaming(ChatAnswer) | ERRORS)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """The next turn of a conversation, at once or as a stream of chunks."""
    service: Service = request.app.state.service
    name = service.check_name(body.model)
    wanted = await turn(service, body)
    answer = Answering(service, body, name, wanted)
    outputs = service.outputs(request, wanted.ids, wanted.params, body.options, answer.id)
    if body.stream:
        return await respond(request, answer.events(outputs), service.settings)
    return json_response(answer.whole(await unless_gone(request, gather(outputs))))


class Answering:
    """One answer in the making."""

    def __init__(self, service: Service, body: ChatRequest, name: str, wanted: Turn) -> None:
        self.id, self._name, self._created = new_id("chatcmpl"), name, int(time.time())
        self._service, self._body, self._turn = service, body, wanted

    def whole(self, texts: Texts) -> ChatAnswer:
        """The answer of a request that does not stream."""
        answer: ChatAnswer = {
            "id": self.id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._name,
            "choices": [self._choice(index, sample) for index, sample in sorted(texts.samples.items())],
            "usage": usage(len(self._turn.ids), texts.tokens, texts.cached),
        }
        if texts.prompt_logprobs is not None:
            answer["prompt_logprobs"] = prompt_logprobs(texts.prompt_logprobs)
        return answer

    def _choice(self, index: int, sample: Sample) -> ChatChoice:
        message: MessageAnswer = {"role": "assistant", "content": sample.text, "refusal": None}
        reason: Any = sample.reason
        if (parser := self._turn.parser()) is not None:
            text, found = parse(parser, sample.text)
            calls: list[CallAnswer] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in (found if self._turn.parallel else found[:1])
            ]
            if calls:
                message = {"role": "assistant", "content": text or None, "refusal": None, "tool_calls": calls}
                reason = "tool_calls" if reason == "stop" else reason
            else:
                message["content"] = text
        logprobs: Any = {"content": self._logprobs(sample.logprobs)} if self._body.logprobs else None
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": reason,
            "stop_reason": sample.stop,
        }

    def _logprobs(self, tables: Any) -> Any:
        return chat_logprobs(tables, self._body.top_logprobs or 0)

    async def events(self, outputs: Outputs) -> AsyncGenerator[str, None]:
        """The chunks of a stream. Their text is put together by hand: there is one for every token."""
        head = (
            f'data: {{"id":"{self.id}","object":"chat.completion.chunk","created":{self._created},'
            f'"model":{encode(self._name)},"choices":['
        )
        wants_usage, always = self._body.wants_usage
        prompt, generated, cached = len(self._turn.ids), 0, 0
        samples: dict[int, Pieces] = {}
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                choices: list[str] = []
                for delta in output.outputs:
                    generated += len(delta.token_ids)
                    pieces = samples.get(delta.index)
                    if pieces is None:
                        pieces = samples[delta.index] = Pieces(delta.index, self._turn)
                        choices.append(pieces.choice('{"role":"assistant","content":""}'))
                    logprobs = {"content": self._logprobs(delta.logprobs)} if delta.logprobs else None
                    choices += pieces.of(delta, encode(logprobs))
                if output.finished:
                    cached = output.num_cached_tokens
                if choices:
                    used = f',"usage":{encode(usage(prompt, generated) if always else None)}' if wants_usage else ""
                    yield "".join([f"{head}{choice}]{used}}}\n\n" for choice in choices])
        if wants_usage:
            yield f'{head}],"usage":{encode(usage(prompt, generated, cached))}}}\n\n'
        yield DONE


class Pieces:
    """The choices of one sample's chunks, as JSON."""

    def __init__(self, index: int, wanted: Turn) -> None:
        self._head = f'{{"index":{index},"delta":'
        self._parser: ToolParser | None = wanted.parser()
        self._parallel, self._called = wanted.parallel, False

    def choice(self, delta: str, logprobs: str = "null", end: str = '"finish_reason":null') -> str:
        """One choice."""
        return f'{self._head}{delta},"logprobs":{logprobs},{end}}}'

    def of(self, delta: CompletionOutput, logprobs: str) -> Iterator[str]:
        """What is new: content, calls, the end. Log probabilities go with the first of them."""
        for piece in self._deltas(delta):
            yield self.choice(piece, logprobs)
            logprobs = "null"
        if delta.finish_reason is None:
            if logprobs != "null":
                yield self.choice("{}", logprobs)
            return
        reason = "tool_calls" if self._called and delta.finish_reason == "stop" else delta.finish_reason
        stop = encode(delta.stop_reason)
        yield self.choice("{}", logprobs, f'"finish_reason":"{reason}","stop_reason":{stop}')

    def _deltas(self, delta: CompletionOutput) -> Iterator[str]:
        """The messages' parts."""
        if self._parser is None:
            if delta.text:
                yield f'{{"content":{encode(delta.text)}}}'
            return
        events: list[Event] = self._parser.push(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            events = [*events, *self._parser.finish()]
        for event in events:
            if isinstance(event, Content):
                yield f'{{"content":{encode(event.text)}}}'
            elif self._parallel or event.index == 0:
                self._called = True
                yield f'{{"tool_calls":[{encode(_call(event))}]}}'


def _call(event: Any) -> dict[str, Any]:
    """The beginning of a call, or a piece of its arguments."""
    if isinstance(event, CallBegin):
        function = {"name": event.name, "arguments": ""}
        return {"index": event.index, "id": event.id, "type": "function", "function": function}
    return {"index": event.index, "function": {"arguments": event.text}}
