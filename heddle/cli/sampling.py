"""The options of how tokens are chosen, alike in every verb that generates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def sampling_options(max_tokens: int | None, limit: str) -> Callable[[F], F]:
    """The function gets them by the names of `SamplingParams`. `limit` describes the default where max_tokens is None."""
    shown: bool | str = limit or True
    options = (
        click.option("--max-tokens", type=int, default=max_tokens, show_default=shown, help="Most tokens to generate."),
        click.option("--temperature", default=0.7, show_default=True, help="0 takes the likeliest token."),
        click.option("--top-p", default=1.0, show_default=True, help="Fewest tokens that reach this probability."),
        click.option("--top-k", default=0, show_default=True, help="The likeliest tokens only; 0 keeps all."),
        click.option("--min-p", default=0.0, show_default=True, help="As likely as this share of the likeliest."),
        click.option("--repetition-penalty", default=1.0, show_default=True, help="Over 1 repeats less."),
        click.option("--seed", type=int, help="The same seed gives the same text."),
        click.option("--stop", multiple=True, help="End before this text; may be given several times."),
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate
