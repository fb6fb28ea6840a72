"""Text to token ids and back, and conversations to text, by the tokenizer files of a Hugging Face model directory."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from . import chat_template
from .errors import ContextLengthError, HeddleError, RequestError
from .text_bound import bytes_per_token

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_COPY_AGAIN = "copy the tokenizer's files again from the model's origin"


class TokenizerError(HeddleError):
    """The tokenizer files of a model are missing, broken, or disagree."""


class Tokenizer:
    """The tokenizer of a model directory.

    tokenizer.json holds the vocabulary and its rules; tokenizer_config.json (optional) names the special tokens; the
    chat template stands in the config or in chat_template.jinja.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], template: str | None = None) -> None:
        self._backend = backend
        self._backend.no_truncation()  # training settings that some files carry along
        self._backend.no_padding()
        self._config = dict(config)
        self._template = template
        self.bos_token = _special(config, "bos_token")
        self.eos_token = _special(config, "eos_token")
        self.bos_token_id = self._known_id("bos_token", self.bos_token)
        self.eos_token_id = self._known_id("eos_token", self.eos_token)
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self._byte_tokens = _mentions(json.loads(backend.to_str())["decoder"], "ByteFallback")

    @classmethod
    def load(cls, directory: str | Path, chat_template: str | None = None) -> Tokenizer:
        """Read the tokenizer of a model directory or artifact; TokenizerError says what is wrong with which file.

        `chat_template` stands for the model's own.
        """
        directory = Path(directory)
        path = directory / TOKENIZER_FILE
        if not path.is_file():
            raise TokenizerError(
                f"{path} does not exist",
                "the tokenizer of a model is read from this file",
                "copy it from the model's origin; an old model without one gets it by AutoTokenizer.save_pretrained",
            )
        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        except Exception as error:  # the tokenizers package raises plain Exception
            raise TokenizerError(f"{path} is broken", str(error), _COPY_AGAIN) from error
        config = _read_config(directory / CONFIG_FILE)
        file = directory / TEMPLATE_FILE
        own = file.read_text("utf-8") if chat_template is None and file.is_file() else None
        tokenizer = cls(backend, config, chat_template or own)
        if chat_template is not None:
            tokenizer._render(tokenizer._template_text(tools=False), None)  # what is wrong with it is said now
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id; a model's vocabulary may be larger (padding)."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of tokens that are not text, such as `<|im_end|>`."""
        return self._special_ids

    @property
    def vocabulary(self) -> dict[str, int]:
        """Ids by token, added tokens included. Tokens stand as tokenizer.json spells them."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def to_json(self) -> str:
        """The rules and the vocabulary as tokenizer.json has them."""
        return str(self._backend.to_str())

    @functools.cached_property
    def bytes_per_token(self) -> int | None:
        """The most bytes of UTF-8 that a token stands for, in a text in normal form C; None where nothing bounds them."""
        return bytes_per_token(json.loads(self.to_json()))

    def encode(self, text: str, add_special_tokens: bool = True, at_most: int | None = None) -> list[int]:
        """Token ids of `text`, framed by the special tokens that the model expects around a text.

        The frame is that of tokenizer.json. Like transformers (5 and up), this ignores add_bos_token and add_eos_token
        in the config: they repeat the frame, or contradict it where nobody looked after them. ContextLengthError for more
        than `at_most` tokens.
        """
        found = self._encoding(text, add_special_tokens)
        if at_most is not None and len(found) > at_most:  # before a million integers are made of it
            raise ContextLengthError(
                f"the prompt has {len(found)} tokens; the context holds {at_most}", fix="shorten the prompt"
            )
        return list(found.ids)

    def _encoding(self, text: str, add_special_tokens: bool) -> Any:
        """What the library makes of a text; RequestError for one that cannot be UTF-8."""
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens)
        except TypeError as error:
            if not isinstance(text, str):
                raise
            raise RequestError(
                "a text has half of a surrogate pair, which is no character",
                "tokenizers read UTF-8",
                'replace them: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
            ) from error

    def encode_start(self, text: str, tokens: int) -> list[int]:
        """Token ids of `text` as `encode` gives them, at most so many: what is too much is cut off its end, inside of the frame.

        RequestError where the frame alone is longer.
        """
        framing = self._backend.num_special_tokens_to_add(is_pair=False)
        if tokens <= framing:
            raise RequestError(f"{tokens} tokens have no room for a text", f"{framing} tokens frame it", "allow more")
        found = self._encoding(text, False)
        found.truncate(tokens - framing)
        return list(self._backend.post_process(found).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids. Ids that the tokenizer does not know have no text."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def is_silent(self, token: int, skip_special_tokens: bool = True) -> bool:
        """Whether `decode` drops this token: it is special or unknown."""
        return (skip_special_tokens and token in self._special_ids) or self._backend.id_to_token(token) is None

    def is_byte(self, token: int) -> bool:
        """Whether this is a token like `<0xE4>`: the text of a run of these is only known when the run ends."""
        if not self._byte_tokens:
            return False
        piece = self._backend.id_to_token(token) or ""
        return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The conversation as the text that the model was trained on; encode it with `add_special_tokens=False`.

        `messages` are `{"role": ..., "content": ...}`; `variables` are passed to the template (`tools`, ...).
        RequestError for a malformed conversation, TokenizerError where the model has no chat template or a broken one.
        """
        for i, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise RequestError(f"messages[{i}] is {message!r}; it must be a dict with a 'role' and a 'content'")
        if not messages:
            raise RequestError("a conversation needs at least one message")
        template = self._template_text(tools=bool(variables.get("tools")))
        frame = {"bos_token": self.bos_token or "", "eos_token": self.eos_token or ""}
        given = {**frame, **variables, "messages": list(messages), "add_generation_prompt": add_generation_prompt}
        return self._render(template, given)

    def chat_template(self, tools: bool = False) -> str | None:
        """The chat template's text, None where there is none. Of several by name: "default", with `tools` "tool_use"."""
        source = self._template or self._config.get("chat_template")
        if isinstance(source, list):
            named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, Mapping)}
            source = (tools and named.get("tool_use")) or named.get("default")
        return source if isinstance(source, str) and source else None

    def _template_text(self, tools: bool) -> str:
        source = self.chat_template(tools)
        if source is None:
            raise TokenizerError(
                "the model has no chat template",
                f"neither {TEMPLATE_FILE} nor chat_template in {CONFIG_FILE} is there",
                "use generate() with a prompt in the model's own format",
            )
        return source

    def _render(self, source: str, variables: Mapping[str, Any] | None) -> str:
        """What the template makes of the variables; None only compiles it. It comes with the model and is not trusted."""
        try:
            return chat_template.render(source, variables)
        except chat_template.TemplateError as error:
            fix = "give another chat template, or use generate() with a prompt in the model's own format"
            if error.kind == "TemplateSyntaxError":
                raise TokenizerError("the chat template is broken", error.reason, fix) from error
            if error.kind in chat_template.BOUNDS:
                raise TokenizerError("the model's chat template was stopped", error.reason, fix) from error
            raise RequestError("the model's chat template refused the conversation", str(error)) from error
        except (TypeError, ValueError) as error:
            raise RequestError("a conversation is made of what JSON can hold", str(error)) from error

    def _known_id(self, name: str, token: str | None) -> int | None:
        if token is None:
            return None
        number = self._backend.token_to_id(token)
        if number is None:
            raise TokenizerError(
                f"{name} is {token!r} in {CONFIG_FILE}, which {TOKENIZER_FILE} does not know", fix=_COPY_AGAIN
            )
        return int(number)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON", str(error), _COPY_AGAIN) from error
    if not isinstance(config, dict):
        raise TokenizerError(f"{path} must hold a JSON object, found a {type(config).__name__}")
    return config


def _special(config: Mapping[str, Any], name: str) -> str | None:
    """A special token of the config: a text, or an object with its text under `content`."""
    value = config.get(name)
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise TokenizerError(f"{name} in {CONFIG_FILE} is {value!r}; it must be a text or null")
    return value


def _mentions(rules: Any, kind: str) -> bool:
    """Whether `rules` (a decoder, or a sequence of them) has one of type `kind`."""
    if not isinstance(rules, dict):
        return False
    return rules.get("type") == kind or any(_mentions(part, kind) for part in rules.get("decoders", ()))
