"""The formats of Mistral's models: `[TOOL_CALLS]`, then a list of objects, or a name and its arguments."""

from __future__ import annotations

from .parser import NAME, Reading, ToolParser

MARKER, ARGUMENTS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


class MistralParser(ToolParser):
    """`[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}, ...]`, and since tokenizer version 11
    `[TOOL_CALLS]f[ARGS]{"x": 1}` for each call, where `[ARGS]` may be left out and `[CALL_ID]...` may stand before it.
    """

    id_length = 9  # the chat templates refuse others

    def read(self) -> Reading[None]:
        """Content, then calls; again."""
        while (yield from self.until(MARKER)):
            yield from self.spaces()
            if (yield from self.follows("[")):
                yield from self._list()
            elif (yield from self.next_is("{")):
                yield from self.call()
            else:
                yield from self._named()

    def _list(self) -> Reading[None]:
        yield from self.spaces()
        while (yield from self.call()):
            yield from self.spaces()
            if not (yield from self.follows(",")):
                if not (yield from self.follows("]")):
                    self.go_back()
                return
            yield from self.spaces()

    def _named(self) -> Reading[None]:
        name = yield from self.word(NAME)
        if name and (yield from self.follows(CALL_ID)):
            yield from self.word(NAME)
        if name:
            yield from self.follows(ARGUMENTS)
            yield from self.spaces()
        if name and (yield from self.next_is("{")):
            yield from self.named_call(name)
        else:
            self.give_up()
