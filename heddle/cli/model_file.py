"""The option `--model-file` of the verbs that may compile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def model_file_option() -> Callable[[F], F]:
    """A `--model-file` option; the function gets its path, None where it is not given."""
    return click.option(
        "--model-file",
        type=click.Path(path_type=Path),
        help="A Python file that registers the model's architecture (docs/tutorial_family.md). It is run.",
    )
