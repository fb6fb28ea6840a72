"""The items of an answer of /v1/responses, and the events that tell how they come to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .json_text import encode
from .schema.responses import OutputCall, OutputMessage, OutputText, Status
from .service import new_id
from .tools import CallArguments, CallBegin, Content, Event

Told = Iterator[str]
"""Events as a client gets them."""


class Items:
    """Messages and calls, one after the other; the last one may be open."""

    def __init__(self) -> None:
        self.done: list[OutputMessage | OutputCall] = []
        self._open: OutputMessage | OutputCall | None = None
        self._pieces: list[str] = []
        self._number = 0  # of the next event

    def event(self, kind: str, **fields: Any) -> str:
        """One event."""
        data = {"type": kind, **fields, "sequence_number": self._number}
        self._number += 1
        return f"event: {kind}\ndata: {encode(data)}\n\n"

    def take(self, event: Event) -> Told:
        """What the model wrote."""
        if isinstance(event, Content):
            if self._open is None or self._open["type"] != "message":
                yield from self.close()
                yield from self._begin_message()
            yield self._delta("response.output_text.delta", event.text, content_index=0, logprobs=[])
        elif isinstance(event, CallBegin):
            yield from self.close()
            call = _call(event.id, event.name)
            yield from self._begin(call)
        elif isinstance(event, CallArguments):
            yield self._delta("response.function_call_arguments.delta", event.text)

    def close(self, status: Status = "completed") -> Told:
        """The open item is over."""
        item, text = self._open, "".join(self._pieces)
        if item is None:
            return
        place: dict[str, Any] = {"item_id": item["id"], "output_index": len(self.done)}
        item["status"] = status
        if item["type"] == "message":
            part = _part(text)
            item["content"] = [part]
            yield self.event("response.output_text.done", **place, content_index=0, text=text, logprobs=[])
            yield self.event("response.content_part.done", **place, content_index=0, part=part)
        else:
            item["arguments"] = text
            yield self.event("response.function_call_arguments.done", **place, name=item["name"], arguments=text)
        yield self.event("response.output_item.done", output_index=len(self.done), item=item)
        self.done.append(item)
        self._open = None

    def _begin(self, item: OutputMessage | OutputCall) -> Told:
        self._open, self._pieces = item, []
        yield self.event("response.output_item.added", output_index=len(self.done), item=item)

    def _begin_message(self) -> Told:
        message: OutputMessage = {
            "type": "message",
            "id": new_id("msg").replace("-", "_"),
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        yield from self._begin(message)
        place = {"item_id": message["id"], "output_index": len(self.done)}
        yield self.event("response.content_part.added", **place, content_index=0, part=_part(""))

    def _delta(self, kind: str, text: str, **fields: Any) -> str:
        assert self._open is not None  # a piece has its item
        self._pieces.append(text)
        return self.event(kind, item_id=self._open["id"], output_index=len(self.done), **fields, delta=text)


def _part(text: str) -> OutputText:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call(call_id: str, name: str) -> OutputCall:
    return {
        "type": "function_call",
        "id": new_id("fc").replace("-", "_"),
        "call_id": call_id,
        "name": name,
        "arguments": "",
        "status": "in_progress",
    }
