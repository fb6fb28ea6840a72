"""`heddle compile-torch`: a torch module in, an artifact for `heddle.load_module` out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .compile_ import DTYPES
from .progress import progress_bar
from .quant import quant_option


@click.command("compile-torch")
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Artifact directory.")
@quant_option(help="Quantize linears: a scheme (w4a8, w8a8, ...), or NAME=SCHEME for linears of a pattern.")
@click.option("--target", default="native", show_default=True, help="Target profile, or native for this CPU's widest.")
@click.option("--dtype", type=DTYPES, help="Store unquantized matrices of linears in this type (default: float32).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(source: str, output: Path, quant: Any, target: str, dtype: str | None, as_json: bool) -> None:
    """Compile SOURCE: FILE.py:FUNCTION, or a program saved by torch.export.save.

    FUNCTION returns what torch.export.export takes: (module, example arguments) or (module, example arguments, dynamic_shapes).
    """
    from ..compiler.torch_export.compile import compile_torch
    from ..runtime.artifact import open_module

    with progress_bar() as progress:
        path = compile_torch(source, output, quant=quant, target=target, dtype=dtype, progress=progress)
    manifest = open_module(path).manifest
    if as_json:
        found = {"path": str(path), "difference": manifest.difference, "seconds": manifest.compile_seconds}
        click.echo(json.dumps(found))
        return
    inputs, outputs = ", ".join(map(str, manifest.inputs)), ", ".join(map(str, manifest.outputs))
    click.echo(f"{path}: ({inputs}) -> {outputs}")
    click.echo(f"differs from torch by {manifest.difference:.2g} of the largest output on the example arguments")
