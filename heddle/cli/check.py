"""`heddle check`: the preflight of a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .model_file import model_file_option
from .quant import quant_option
from .target import targets_option

if TYPE_CHECKING:
    from ..models.problems import Problem


@click.command("check")
@click.argument("model", type=click.Path(path_type=Path))
@quant_option(help="Check also whether MODEL can be quantized so (as in heddle compile).")
@targets_option(help="Check also whether MODEL can be compiled for this target (as in heddle compile).")
@model_file_option()
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON.")
@click.pass_context
def command(
    ctx: click.Context, model: Path, quant: Any, targets: tuple[str, ...], model_file: Path | None, as_json: bool
) -> None:
    """List all problems of MODEL, in any format that can be read, at once. Exits with 1 if any is an error."""
    from ..models.check import check_model

    problems = [*_load(model_file), *check_model(model)]
    if all(problem.severity != "error" for problem in problems):
        from ..compiler.driver import quantization_problems

        problems += [*_linkers(targets), *quantization_problems(model, quant, targets)]
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        listed = [dataclasses.asdict(problem) for problem in problems]
        click.echo(json.dumps({"model": str(model), "errors": errors, "problems": listed}))
    else:
        for problem in problems:
            click.echo(f"{problem.severity}: {problem.what}")
            for label, text in (("why", problem.why), ("fix", problem.fix)):
                if text:
                    click.echo(f"  {label}: {text}")
        click.echo(f"{errors} error{'s' * (errors > 1)}" if errors else "ready to compile")
    ctx.exit(1 if errors else 0)


def _load(model_file: Path | None) -> Sequence[Problem]:
    """What prevents the model file from being used."""
    from ..models.plugins import load_model_file
    from ..models.problems import ModelError

    try:
        if model_file is not None:
            load_model_file(model_file)
    except ModelError as error:
        return error.problems
    return []


def _linkers(targets: Sequence[str]) -> list[Problem]:
    """What prevents libraries for these targets from being linked."""
    from ..compiler.codegen import linker, resolve
    from ..models.problems import error
    from ..runtime.errors import HeddleError

    problems = []
    for profile in resolve(targets):
        try:
            linker(profile)
        except HeddleError as missing:
            problems.append(error(missing.what, missing.why, missing.fix))
    return list(dict.fromkeys(problems))  # one for each architecture
