"""`heddle package`: a model with its program, in a directory that needs neither Python nor a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .compile_ import DTYPES, KV_DTYPES
from .model_file import model_file_option
from .progress import progress_bar
from .quant import quant_option


@click.command("package")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The directory to write.")
@click.option("--arch", metavar="ARCH", help="x86_64 or aarch64 (default: this machine's).")
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Only this target's library (several times for several; default: all of ARCH).",
)
@quant_option()
@click.option("--dtype", type=DTYPES, help="Type of unquantized matrices, where MODEL is compiled here.")
@click.option("--kv-dtype", type=KV_DTYPES, help="Type of the KV cache, where MODEL is compiled here.")
@click.option("--context-length", type=int, help="Longest sequence, where MODEL is compiled here.")
@model_file_option()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: Path, output: Path, arch: str | None, targets: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Write MODEL, an artifact or a checkpoint, as a directory with all that runs it (docs/targets/packaging.md)."""
    from ..compiler.native.package import package_model

    given = {name: value for name, value in options.items() if value is not None}
    with progress_bar() as progress:
        made = package_model(model, output, arch=arch, targets=targets, progress=progress, **given)
    total = sum(made.bytes.values())
    if as_json:
        found = {
            "path": str(made.path),
            "arch": made.arch,
            "targets": made.targets,
            "bytes": total,
            "parts": made.bytes,
        }
        click.echo(json.dumps(found))
        return
    parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sorted(made.bytes.items()))
    click.echo(f"{made.path}: {total / 1e6:.1f} MB ({parts}) for {made.arch}: {', '.join(made.targets)}")
    click.echo(f"run it: {made.path / 'run.sh'} PROMPT")
