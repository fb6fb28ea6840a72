"""`heddle replay`: a trace of an engine, step for step."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("replay")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(trace: Path, as_json: bool) -> int:
    """Run the engine on a null device with what TRACE recorded, and say where a step differs (exit code 1)."""
    from ..runtime.replay import replay

    found = replay(trace)
    if as_json:
        click.echo(json.dumps({"trace": str(trace), "steps": found.steps, "difference": found.difference}))
    elif found.difference is None:
        click.echo(f"{found.steps} steps replayed")
    else:
        click.echo(f"{found.steps} steps replayed, then {found.difference}")
    return 0 if found.difference is None else 1
