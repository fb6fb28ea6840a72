"""Reading a model's tokenizer files: the same ids and texts as transformers gives, and clear errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from heddle.runtime.errors import RequestError
from heddle.runtime.tokenizer import Tokenizer, TokenizerError

from .tokenizers_for_tests import TINYDOC, byte_fallback, byte_level

TEXTS = ["Hello, world!", " leading", "naïve 你好 🎉", "<|im_start|>user\nhi<|im_end|>", "", "tabs\tand\n\nlines"]
CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a <tag> & 你?"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINYDOC / name, tmp_path / name)
    return tmp_path


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def frame(folder: Path) -> None:
    """Make tokenizer.json put token 1 before a text, as Llama 3's does."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", pair="$A $B", special_tokens=[("<|im_start|>", 1)]
    )
    backend.enable_truncation(4)  # as some published files have it
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize(
    "flags", [{}, {"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}], ids=str
)
def test_same_ids_as_transformers(folder: Path, framed: bool, flags: dict[str, bool]) -> None:
    """Special tokens around a text come from tokenizer.json, whatever the config says."""
    if framed:
        frame(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config = {key: value for key, value in config.items() if not key.startswith("add_")}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": "<|endoftext|>"} | flags))
    ours, theirs = Tokenizer.load(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    theirs.backend_tokenizer.no_truncation()
    theirs.backend_tokenizer.no_padding()
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)


def test_decoding() -> None:
    tokenizer = byte_level()
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text
    assert tokenizer.decode(tokenizer.encode("a<|im_end|>b")) == "ab"
    assert tokenizer.decode([99_999]) == ""
    assert (tokenizer.vocab_size, tokenizer.eos_token_id, tokenizer.bos_token_id) == (4096, 2, None)
    assert tokenizer.special_ids == {0, 1, 2}
    assert byte_fallback().encode("a") == [1, *byte_fallback().encode("a", add_special_tokens=False)]


@pytest.mark.parametrize("generate", [True, False])
def test_chat_template_renders_as_transformers(folder: Path, generate: bool) -> None:
    """A template with the tags, filters, functions and whitespace rules that published templates use."""
    template = """{%- for message in messages %}
    {%- if loop.index0 > 9 %}{% break %}{% endif %}
    {% generation %}[{{ message.role | upper }}] {{ message | tojson }}{% endgeneration %}
{% endfor %}
{% if add_generation_prompt %}<go>{{ eos_token }}{{ strftime_now('%%') }}{{ extra }}{% endif %}"""
    for text in (None, template):
        if text:
            (folder / "chat_template.jinja").write_text(text)
        ours, theirs = Tokenizer.load(folder), PreTrainedTokenizerFast.from_pretrained(folder)
        expected = theirs.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=generate, extra="X")
        assert ours.apply_chat_template(CONVERSATION, add_generation_prompt=generate, extra="X") == expected


def test_named_templates(folder: Path) -> None:
    named = [
        {"name": "tool_use", "template": "{{ tools }}"},
        {"name": "default", "template": "{{ messages[0].content }}!"},
    ]
    configure(folder, chat_template=named)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.apply_chat_template(CONVERSATION) == "Be brief.!"
    assert tokenizer.apply_chat_template(CONVERSATION, tools=[7]) == "[7]"
    assert tokenizer.chat_template(tools=True) == "{{ tools }}"
    configure(folder, chat_template=named[1:])
    assert Tokenizer.load(folder).apply_chat_template(CONVERSATION, tools=[7]) == "Be brief.!"


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        (None, TokenizerError, "no chat template"),
        ("{% if %}", TokenizerError, "chat template is broken"),
        ("{{ raise_exception('roles must alternate') }}", RequestError, "roles must alternate"),
        ("{{ messages[0].content + 3 }}", RequestError, "refused the conversation"),
        ("{{ ''.__class__.__mro__ }}", RequestError, "SecurityError"),
        ("{{ messages.append(1) }}", RequestError, "SecurityError"),
    ],
)
def test_bad_templates(folder: Path, template: str | None, error: type[Exception], message: str) -> None:
    configure(folder, chat_template=template)
    with pytest.raises(error, match=message):
        Tokenizer.load(folder).apply_chat_template(CONVERSATION)


@pytest.mark.parametrize("messages", [[], ["hi"], [{"content": "x"}], [{"role": 3, "content": "x"}]])
def test_bad_conversations(messages: list[Any]) -> None:
    with pytest.raises(RequestError, match=r"conversation|messages"):
        byte_level().apply_chat_template(messages)


def test_missing_files(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    plain = Tokenizer.load(folder)
    assert plain.eos_token_id is None
    assert plain.encode("hi") == byte_level().encode("hi")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json does not exist"):
        Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "{", "is broken"),
        ("tokenizer.json", '{"version": "1.0"}', "is broken"),
        ("tokenizer_config.json", "{,}", "is not JSON"),
        ("tokenizer_config.json", "[]", "must hold a JSON object"),
        ("tokenizer_config.json", '{"eos_token": "<nowhere>"}', "eos_token is '<nowhere>'"),
        ("tokenizer_config.json", '{"bos_token": 7}', "bos_token .* is 7"),
    ],
)
def test_broken_files(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(folder)


def test_truncated_file(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is broken"):
        Tokenizer.load(folder)


def test_half_of_a_surrogate_pair_is_refused() -> None:
    tokenizer = byte_level()
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_start(text, 9)):
        with pytest.raises(RequestError, match="half of a surrogate pair"):
            encode("a \ud800 b")
