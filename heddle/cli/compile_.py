"""`heddle compile`: checkpoint in, artifact out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .model_file import model_file_option
from .progress import progress_bar
from .quant import quant_option
from .target import targets_option

DTYPES = click.Choice(["float32", "float16", "bfloat16"])
KV_DTYPES = click.Choice(["float32", "float16", "bfloat16", "int8"])


@click.command("compile")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Artifact directory (default: the build cache).")
@quant_option()
@targets_option()
@click.option("--dtype", type=DTYPES, help="Store unquantized matrices in this type (default: the checkpoint's).")
@click.option(
    "--kv-dtype", type=KV_DTYPES, help="Type of the KV cache (default: that of the weights); int8 halves float16."
)
@click.option("--max-tokens", default=1024, show_default=True, help="Most rows of a step; longer prompts go in chunks.")
@click.option("--max-seqs", default=64, show_default=True, help="Most sequences of a step.")
@click.option("--context-length", type=int, help="Longest sequence (default: the model's); LongRoPE depends on it.")
@click.option("--random-weights", type=int, metavar="SEED", help="Random weights of the config's shapes.")
@model_file_option()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    source: Path,
    output: Path | None,
    quant: Any,
    targets: tuple[str, ...],
    dtype: str | None,
    kv_dtype: str | None,
    max_tokens: int,
    max_seqs: int,
    context_length: int | None,
    random_weights: int | None,
    model_file: Path | None,
    as_json: bool,
) -> None:
    """Compile SOURCE, a Hugging Face or MLC directory or a GGUF file (or a config.json with --random-weights)."""
    from ..compiler.driver import compile_model
    from ..runtime.artifact import read_manifest

    with progress_bar() as progress:
        path = compile_model(
            source,
            output,
            quant=quant,
            target=targets,
            dtype=dtype,
            kv_dtype=kv_dtype,
            max_tokens=max_tokens,
            max_seqs=max_seqs,
            context_length=context_length,
            random_weights=random_weights,
            model_file=model_file,
            progress=progress,
        )
    manifest = read_manifest(path)
    seconds, made = manifest.compile_seconds, [target.name for target in manifest.targets]
    size = sum(info.bytes for info in manifest.files.values())
    if as_json:
        click.echo(json.dumps({"path": str(path), "bytes": size, "targets": made, "seconds": seconds}))
        return
    click.echo(f"{path}: {size / 1e6:.1f} MB for {', '.join(made)}")
    click.echo("  ".join(f"{phase} {spent:.2f} s" for phase, spent in seconds.items() if spent >= 0.005))
