"""Texts as windows: what is scored, what stands in front, default sizes, and files that are no text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heddle.runtime.errors import RequestError
from heddle.windows import Text, cut, frame, read_text, windows_of
from tests.tokenizers_for_tests import byte_fallback, byte_level


@given(st.integers(1, 300), st.integers(1, 80), st.integers(1, 80), st.booleans())
def test_windows_score_every_token_once(tokens: int, room: int, stride: int, prefixed: bool) -> None:
    room = max(room, 1 if prefixed else 2)
    stride = min(stride, room)
    windows = list(cut(tokens, room, stride, prefixed))
    scored = [i for window in windows for i in range(window.first, window.end)]
    expected = set(range(tokens))
    if not prefixed:
        expected -= {0} if stride < room else set(range(0, tokens, room))
    assert scored == sorted(expected)
    for window in windows:
        assert window.begin % stride == 0
        assert 1 <= window.end - window.begin <= room
        assert window.first >= window.begin + (not prefixed)
        # All but the first window's tokens have what overlaps before them.
        assert window.begin == 0 or window.first - window.begin >= room - stride


def test_frames() -> None:
    assert frame(byte_level()) == ()
    assert frame(byte_fallback()) == (1,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty(?s:.*)fix:"),
        (b"abc\xff\xfe", r"is not a text in UTF-8\n  why: byte 3 is 0xff"),
        (b"abc\0def", r"is not a text\n  why: character 3 is NUL"),
        (None, r"cannot be read\n  why: No such file"),
    ],
)
def test_files_that_are_no_text(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=message):
        read_text(path)
    with pytest.raises(RequestError, match="cannot be read"):
        read_text(tmp_path)


def test_files_are_read_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("a\r\nb\rü".encode())
    assert read_text(tmp_path / "text") == "a\r\nb\rü"


def test_default_windows() -> None:
    def sizes(tokens: int, context: int, prefix: tuple[int, ...] = (), **given: int) -> tuple[int, int, int]:
        found = windows_of(Text(np.zeros(tokens, np.int32), tokens, prefix), context, **given)
        return found.size, found.stride, len(found.windows)

    assert sizes(5000, 2048) == (2048, 1024, 4)
    assert sizes(5000, 100_000) == (2048, 1024, 4)
    assert sizes(5000, 300, (1,)) == (300, 150, 33)
    assert sizes(40, 300, (1,), window=2) == (2, 1, 40)
    assert sizes(40, 300, window=2, stride=2) == (2, 2, 20)
