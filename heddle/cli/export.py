"""`heddle export`: any model that can be read, as a Hugging Face directory."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .compile_ import DTYPES
from .progress import progress_bar


@click.command("export")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The directory to write.")
@click.option("--dtype", type=DTYPES, help="Store floats in this type (default: each in its own).")
@click.option("--shard-gb", default=5.0, show_default=True, help="Size of a file of weights, in 1e9 bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(model: Path, output: Path, dtype: str | None, shard_gb: float, as_json: bool) -> None:
    """Write MODEL as a Hugging Face directory: safetensors, config and tokenizer, quantized weights dequantized."""
    from ..models.export import export_model
    from ..models.source import open_source

    source = open_source(model)
    with progress_bar() as progress:
        path = export_model(source, output, dtype=dtype, shard_bytes=int(shard_gb * 1e9), progress=progress)
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    if as_json:
        click.echo(json.dumps({"path": str(path), "source": source.name, "bytes": size}))
    else:
        click.echo(f"{path}: {size / 1e6:.1f} MB from a {source.name}")
