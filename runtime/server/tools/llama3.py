"""The format of Llama 3.1 and later: the answer is the call, `{"name": "f", "parameters": {...}}`, with or without a marker."""

from __future__ import annotations

from .parser import Reading, ToolParser

TAG = "<|python_tag|>"


class Llama3Parser(ToolParser):
    """`{"name": "f", "parameters": {"x": 1}}` at the start of the answer, or anywhere behind `<|python_tag|>`.

    Several stand behind each other, with `;` or spaces between them. An answer that is some other JSON is content, and so is
    code behind the marker (the built-in tools of Llama 3.1, such as `brave_search.call(query="...")`).
    """

    def read(self) -> Reading[None]:
        """Calls at the start, then content and calls behind markers."""
        yield from self.spaces()
        if (yield from self.next_is("{")):
            yield from self._calls()
        else:
            self.give_up()
        while (yield from self.until(TAG)):
            yield from self.spaces()
            yield from self._calls()

    def _calls(self) -> Reading[None]:
        while (yield from self.call(strict=True)):
            yield from self.spaces()
            if (yield from self.follows(";")):
                yield from self.spaces()
            if not (yield from self.next_is("{")):
                self.go_back()
                return
