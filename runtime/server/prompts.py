"""Prompts in the forms that bodies have them, as token ids."""

from __future__ import annotations

from typing import Any

from .errors import ServerError
from .schema.completions import Prompts
from .service import Service


async def token_lists(
    service: Service, given: Prompts, field: str, add_special_tokens: bool = True, truncate: int | None = None
) -> list[list[int]]:
    """The prompts of the body's `field` as token ids, at most `truncate` of each. ServerError where there is none, or too many."""
    listed: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
    most = service.settings.max_prompts
    if not listed or not all(listed):
        raise ServerError(400, f"{field} is empty", param=field, code="invalid_value")
    if len(listed) > most:
        why = f"{field} has {len(listed)} prompts; allowed are {most} in one request"
        raise ServerError(400, why, param=field, code="invalid_value")
    return [
        await service.tokens(prompt, add_special_tokens, truncate) if isinstance(prompt, str) else prompt[:truncate]
        for prompt in listed
    ]
