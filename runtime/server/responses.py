"""/v1/responses: OpenAI's newer form of a chat. Texts and calls of functions; no answer is kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..errors import HeddleError
from ..outputs import CompletionOutput
from .body import BodyRoute
from .conversation import Turn, turn
from .errors import as_server_error
from .responding import ERRORS, json_response, streaming
from .response_input import as_chat
from .response_items import Items
from .schema.responses import ResponseAnswer, ResponseRequest, ResponseUsage, Status
from .service import Service, new_id
from .sse import respond, unless_gone
from .texts import Outputs, Texts, gather
from .tools import CallArguments, CallBegin, Content, Event, parse

router = APIRouter(route_class=BodyRoute)
INCOMPLETE = {"length": "max_output_tokens", "timeout": "timeout"}
"""Why an answer is incomplete, by the reason that it ended for."""


@router.post("/v1/responses", responses=streaming(ResponseAnswer) | ERRORS)
async def responses(body: ResponseRequest, request: Request) -> Response:
    """The next turn of a conversation, at once or as a stream of events."""
    service: Service = request.app.state.service
    name = service.check_name(body.model)
    chat = as_chat(body)
    wanted = await turn(service, chat)
    answer = Answering(body, name, wanted)
    outputs = service.outputs(request, wanted.ids, wanted.params, chat.options, answer.id)
    if body.stream:
        return await respond(request, answer.events(outputs), service.settings)
    return json_response(answer.whole(await unless_gone(request, gather(outputs))))


class Answering:
    """One answer in the making."""

    def __init__(self, body: ResponseRequest, name: str, wanted: Turn) -> None:
        self.id = new_id("resp").replace("-", "_")
        self._turn, self._items = wanted, Items()
        choice = body.tool_choice or ("auto" if body.tools else "none")
        wanted_text = body.text.format if body.text else None
        self._frame: ResponseAnswer = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": name,
            "output": [],
            "parallel_tool_calls": wanted.parallel,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "store": False,
            "temperature": wanted.params.temperature,
            "text": {"format": wanted_text.model_dump(by_alias=True) if wanted_text else {"type": "text"}},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_p": wanted.params.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            "metadata": body.metadata or {},
        }

    def whole(self, texts: Texts) -> ResponseAnswer:
        """The answer of a request that does not stream."""
        sample = texts.samples[0]
        for event in self._events(sample.text):
            for _ in self._items.take(event):
                pass
        for _ in self._items.close(_status(sample.reason)):
            pass
        return self._ended(sample.reason, texts.tokens, texts.cached)

    def _events(self, text: str) -> Iterator[Event]:
        """A whole text as the events of a parser."""
        parser = self._turn.parser()
        content, calls = parse(parser, text) if parser else (text, [])
        if content or not calls:
            yield Content(content)
        for index, call in enumerate(calls if self._turn.parallel else calls[:1]):
            yield CallBegin(index, call.id, call.name)
            yield CallArguments(index, call.arguments)

    async def events(self, outputs: Outputs) -> AsyncGenerator[str, None]:
        """The events of a stream. What goes wrong on the way is the last one."""
        items, parser = self._items, self._turn.parser()
        reason, generated, cached, begun = None, 0, 0, False

        def read(delta: CompletionOutput) -> list[Event]:
            if parser is None:
                return [Content(delta.text)] if delta.text else []
            found = parser.push(delta.text) if delta.text else []
            found += parser.finish() if delta.finish_reason else []
            return [e for e in found if self._turn.parallel or isinstance(e, Content) or e.index == 0]

        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    told = [] if begun else [self._begin("created"), self._begin("in_progress")]
                    begun = True
                    for delta in output.outputs:
                        generated += len(delta.token_ids)
                        reason = delta.finish_reason or reason
                        for event in read(delta):
                            told += items.take(event)
                    if output.finished:
                        cached = output.num_cached_tokens
                    if told:
                        yield "".join(told)
        except HeddleError as error:
            if not begun:
                raise
            said = as_server_error(error).body["error"]
            yield "".join(items.close("incomplete"))
            failed: ResponseAnswer = {**self._frame, "status": "failed", "output": items.done}
            failed["error"] = {"code": "server_error", "message": said["message"]}
            yield items.event("response.failed", response=failed)
            return
        last = "".join(items.close(_status(reason)))
        answer = self._ended(reason, generated, cached)
        yield last + items.event(f"response.{answer['status']}", response=answer)

    def _begin(self, kind: str) -> str:
        return self._items.event(f"response.{kind}", response=self._frame)

    def _ended(self, reason: str | None, generated: int, cached: int) -> ResponseAnswer:
        """The answer, when all is there."""
        why: Any = INCOMPLETE.get(reason or "")
        prompt = len(self._turn.ids)
        used: ResponseUsage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + generated,
        }
        answer: ResponseAnswer = {**self._frame, "status": _status(reason), "output": self._items.done, "usage": used}
        answer["incomplete_details"] = {"reason": why} if why else None
        return answer


def _status(reason: str | None) -> Status:
    return "incomplete" if reason in INCOMPLETE else "completed"
