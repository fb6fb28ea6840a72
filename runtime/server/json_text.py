"""JSON as the server reads and writes it: reading refuses what is ambiguous or no JSON at all."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from ..errors import RequestError

MAX_DEPTH = 64
"""Arrays and objects within each other."""

_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode(value: Any) -> str:
    """Compact JSON."""
    return _compact(value)


def decode(data: bytes) -> Any:
    """The value that UTF-8 text stands for.

    RequestError for bad UTF-8, NaN and infinities, numbers out of range, lone surrogates, a key that comes twice in an object,
    and deep nesting.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except RequestError:
        raise
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: byte {error.start} is wrong") from error
    except json.JSONDecodeError as error:
        raise RequestError(f"the body is no JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise RequestError(f"the body has a number that is too long: {error}") from error
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if b"\\u" in data and (b"\\ud" in data or b"\\uD" in data):
        try:
            encode(value).encode()
        except UnicodeEncodeError as error:
            raise RequestError("the body has half of a surrogate pair, which is no character") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise RequestError(f"the body has an object with two values of {twice[:64]!r}")
    return found


def _constant(name: str) -> NoReturn:
    raise RequestError(f"the body has {name}, which is no JSON")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise RequestError(f"the body has the number {text[:32]}, which is out of range")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for holder in level
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> RequestError:
    return RequestError(f"the body is nested too deeply; allowed are {MAX_DEPTH} levels")
