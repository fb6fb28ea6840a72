"""`heddle embed`: texts as vectors, one line of JSON each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .model_file import model_file_option
from .progress import progress_bar
from .quant import quant_option
from .target import target_option


@click.command("embed")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@quant_option()
@click.option("--pooling", help="mean, cls, last or pooler (default: the model's own).")
@click.option("--normalize/--no-normalize", default=None, help="Scale vectors to length 1 (default: the model's own).")
@click.option(
    "--truncate", type=int, help="Cut texts to so many tokens; -1: what the model allows (default: refuse them)."
)
@click.option("--threads", type=int, help="Threads (default: TVM_NUM_THREADS, else the physical cores).")
@target_option()
@model_file_option()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a line for each text.")
def command(
    model: Path,
    texts: tuple[str, ...],
    quant: Any,
    pooling: str | None,
    normalize: bool | None,
    truncate: int | None,
    threads: int | None,
    target: str,
    model_file: Path | None,
    as_json: bool,
) -> None:
    """Embed TEXTS (or the lines of standard input) by MODEL, an artifact or a model directory."""
    from ..llm import LLM
    from .input import argument, standard_input

    given = [argument(text) for text in texts] or [line for line in standard_input().splitlines() if line]
    with progress_bar() as progress:
        llm = LLM(model, quant, threads, target=target, model_file=model_file, progress=progress)
    vectors = llm.embed(given, pooling, normalize, truncate_prompt_tokens=truncate)
    found = [{"text": text, "embedding": vector.tolist()} for text, vector in zip(given, vectors, strict=True)]
    for line in [{"embeddings": found}] if as_json else found:
        click.echo(json.dumps(line, ensure_ascii=False))
