"""Text that streams: joined pieces are the decoding of all tokens, and no part of a stop text is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heddle.runtime.detokenize import Detokenizer, IncrementalDecoder, StopFilter
from heddle.runtime.tokenizer import Tokenizer

from .tokenizers_for_tests import byte_fallback, byte_level

TOKENIZERS = {"byte level": byte_level(), "byte fallback": byte_fallback()}
both = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


def pieces(tokenizer: Tokenizer, ids: list[int], skip_special_tokens: bool = True) -> list[str]:
    decoder = IncrementalDecoder(tokenizer, skip_special_tokens)
    return [*(decoder.push(token) for token in ids), decoder.finish()]


@both
@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 4200), max_size=60) | st.lists(st.integers(0, 300), max_size=60))
@example(ids=[3 + 0xE4, 3 + 0xBD, 3 + 0xA0, 3 + 0xFF])  # a byte that spoils the character before it
@example(ids=[3 + 0xE4, 3 + 0xBD, 1, 3 + 0xA0])  # a special token inside a character
@example(ids=[259, 259, 262])  # spaces, the first of which is stripped
def test_random_ids(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)
    assert "".join(pieces(tokenizer, ids, False)) == tokenizer.decode(ids, skip_special_tokens=False)


@both
@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40) | st.text(st.sampled_from("🎉你é\ufffd ab\u200d👩‍🚀"), max_size=40))
def test_random_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_special_tokens_on_request() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("<|im_start|>a<|im_start|>")
    assert "".join(pieces(tokenizer, ids)) == "a"
    assert [piece for piece in pieces(tokenizer, ids, False) if piece] == ["<|im_start|>", "a", "<|im_start|>"]
    shown = Detokenizer(tokenizer, ["<|im_start|>"], skip_special_tokens=False).fresh()
    assert (shown.push(ids[1]), shown.push(ids[0]), shown.found) == ("a", "", "<|im_start|>")


def test_characters_come_whole_and_at_once() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("x🎉y")
    assert len(ids) > 3  # the emoji is several tokens
    out = pieces(tokenizer, ids)
    assert [piece for piece in out if piece] == ["x", "🎉", "y"]
    assert out[-1] == ""  # nothing was held back longer than necessary


def test_an_incomplete_character_comes_at_the_end() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("x🎉")[:-1]
    assert pieces(tokenizer, ids)[-1] == "\ufffd"


def test_the_window_stays_small() -> None:
    decoder = IncrementalDecoder(byte_level())
    for token in byte_level().encode("some words and more words 你好 " * 30):
        decoder.push(token)
        assert len(decoder._window) < 12


# Stop texts


def stopped(text: str, stops: list[str]) -> str:
    """The text before the stop text that is complete first; the definition, character by character."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


cuts = st.lists(st.text("abc", max_size=5), max_size=8)


@settings(max_examples=500, deadline=None)
@given(cuts, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
@example(["ab", "cd"], ["c", "bcd"])
@example(["aab"], ["aaab", "ab"])
def test_stop_texts_in_any_pieces(parts: list[str], stops: list[str]) -> None:
    text, expected = "".join(parts), stopped("".join(parts), stops)
    stream, shown = StopFilter(stops), ""
    for part in parts:
        shown += stream.push(part)
        assert expected.startswith(shown), "part of a stop text was shown"
    shown += stream.finish()
    assert shown == expected
    assert (stream.found is None) == (expected == text)


def test_text_is_held_back_only_as_long_as_it_may_be_a_stop_text() -> None:
    stream = StopFilter(["STOP", "Sun"])
    assert [stream.push(part) for part in ("a S", "TO", "x", "S", "u", "per")] == ["a ", "", "STOx", "", "", "Super"]


@both
@settings(max_examples=150, deadline=None)
@given(text=st.text("ab 你🎉.", max_size=30), stops=st.lists(st.text("ab 你🎉.", min_size=1, max_size=3), max_size=2))
def test_tokens_to_text_with_stops(tokenizer: Tokenizer, text: str, stops: list[str]) -> None:
    ids = tokenizer.encode(text)
    expected = stopped(tokenizer.decode(ids), stops)
    detokenizer = Detokenizer(tokenizer, stops)
    shown = ""
    for token in ids:
        shown += detokenizer.push(token)
        assert expected.startswith(shown)
        if detokenizer.found:
            break
    else:
        shown += detokenizer.finish()
    assert shown == detokenizer.text == expected
