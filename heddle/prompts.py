"""From what people write, texts, conversations and token ids, to requests that the engine takes. Any thread may do this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import Prompt, check_tools
from .embed import Pool
from .runtime.engine import Engine
from .runtime.errors import RequestError
from .runtime.messages import for_template
from .runtime.request import Request, token_array
from .runtime.sampling import SamplingParams
from .runtime.tokenizer import TOKENIZER_FILE, Tokenizer, TokenizerError

Messages = Sequence[Mapping[str, Any]]


def needed(tokenizer: Tokenizer | None, home: Path) -> Tokenizer:
    """The tokenizer of a model that came from `home`; TokenizerError where it has none."""
    if tokenizer is None:
        raise TokenizerError(
            f"{home} has no {TOKENIZER_FILE}",
            "the model was compiled without one, so it knows no text",
            "pass token ids, or put the tokenizer's files next to config.json and compile again",
        )
    return tokenizer


class Prompts:
    """Prepares requests for one engine; adds none."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer | None, home: Path) -> None:
        """`home` is where the model came from, for messages."""
        self._engine, self._tokenizer, self._home = engine, tokenizer, home

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; TokenizerError where it has none."""
        return needed(self._tokenizer, self._home)

    def token_ids(self, prompt: Prompt, add_special_tokens: bool = True) -> Sequence[int] | np.ndarray:
        """Token ids of a prompt, which may be such already (and wrong: the engine checks them)."""
        return self.tokenizer.encode(prompt, add_special_tokens) if isinstance(prompt, str) else prompt

    def text(self, prompt: Prompt, params: SamplingParams | None, **options: Any) -> Request:
        """A request for a text after `prompt`; `options` are those of `Engine.prepare`."""
        if isinstance(prompt, str):
            options["prompt"] = prompt
        return self._engine.prepare(self.token_ids(prompt), params, **options)

    def turn(
        self,
        messages: Messages,
        params: SamplingParams | None,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        **options: Any,
    ) -> Request:
        """A request for the next turn of a conversation; `variables` go to the chat template."""
        text = self.conversation(messages, tools, **variables)
        ids = self.tokenizer.encode(text, add_special_tokens=False)  # they are in the text
        return self._engine.prepare(ids, params, prompt=text, **options)

    def conversation(
        self, messages: Messages, tools: Sequence[Mapping[str, Any]] | None = None, **variables: Any
    ) -> str:
        """A conversation as the text that the model was trained on; RequestError for tools that its template leaves out."""
        messages = for_template(messages)
        plain = self.tokenizer.apply_chat_template(messages, **variables)
        if tools is None:
            return plain
        text = self.tokenizer.apply_chat_template(messages, tools=check_tools(tools), **variables)
        if tools and text == plain:
            raise RequestError(
                "the model's chat template leaves tools out",
                "it gives the same text with and without them",
                "describe the tools in a system message, or use a model that was trained to call tools",
            )
        return text

    def embedding(self, prompt: Prompt, pool: Pool, truncate: int | None = None, **options: Any) -> Request:
        """A request whose hidden states go to `pool`. With `truncate` no more than so many tokens count, the frame included."""
        if truncate is not None and isinstance(prompt, str):
            prompt = self.tokenizer.encode_start(prompt, truncate)
        ids = token_array(self.token_ids(prompt), self._engine.runner.info.vocab_size)[:truncate]
        return self._engine.prepare_pooling(ids, pool, first=pool.first(len(ids)), **options)
