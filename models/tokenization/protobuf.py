"""Fields of a protobuf message (https://protobuf.dev/programming-guides/encoding), without a schema and without copies."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """Bytes that are no protobuf message."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field in order: integers of varints, the bytes of everything else. WireError."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError(f"field number 0 at byte {at}")
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise WireError(f"wire type {kind} at byte {at}")
        if length > len(message) - at:
            raise WireError(f"a field of {length} bytes at byte {at}, where {len(message) - at} are left")
        yield number, message[at : at + length]
        at += length


def integer(value: int | memoryview) -> int:
    """A field's value that has to be a number. WireError."""
    if not isinstance(value, int):
        raise WireError("a field that should be a number has bytes")
    return value


def part(value: int | memoryview) -> memoryview:
    """A field's value that has to be bytes: a text, a message, a float. WireError."""
    if isinstance(value, int):
        raise WireError("a field that should have bytes is a number")
    return value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise WireError(f"ends within a number at byte {at}")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError(f"a number of more than 10 bytes at byte {at}")
