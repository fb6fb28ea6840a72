"""The options `--target`: which of an artifact's targets runs, or the profiles that a checkpoint is compiled for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
RUN = (
    "Which of an artifact's targets to run, or the profile to compile a checkpoint for; native: the best that this "
    "machine can run."
)
COMPILE = (
    "Target profile to make a library for (several times for several); native: this CPU's best, portable: all of this "
    "architecture."
)


def target_option(name: str = "--target", help: str = RUN) -> Callable[[F], F]:
    """A `--target` option of a verb that runs a model; the function gets a name, as `LLM` takes it."""
    return click.option(name, default="native", show_default=True, metavar="NAME", help=help)


def targets_option(help: str = COMPILE) -> Callable[[F], F]:
    """A `--target` option of a verb that compiles; the function gets `targets`, as `compile_model` takes them."""
    return click.option(
        "--target", "targets", multiple=True, default=("portable",), show_default=True, metavar="NAME", help=help
    )
