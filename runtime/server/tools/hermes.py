"""The format of Hermes 2 Pro and later, Qwen 2.5, Qwen 3 and others: objects between `<tool_call>` and `</tool_call>`."""

from __future__ import annotations

from .parser import Reading, ToolParser

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class HermesParser(ToolParser):
    """`<tool_call>\\n{"name": "f", "arguments": {"x": 1}}\\n</tool_call>`, any number of times, with content around."""

    closing = CLOSE

    def read(self) -> Reading[None]:
        """Content, then a call; again."""
        while (yield from self.until(OPEN)):
            yield from self.spaces()
            while (yield from self.call()):  # some models put several into one pair of markers
                yield from self.spaces()
                if (yield from self.follows(CLOSE)):
                    break
                if not (yield from self.next_is("{")):
                    self.go_back()
                    break
