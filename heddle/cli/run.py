"""`heddle run`: one prompt, streamed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from .model_file import model_file_option
from .progress import progress_bar
from .quant import quant_option
from .sampling import sampling_options
from .target import target_option


@click.command("run")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@quant_option()
@sampling_options(128, "")
@click.option("--threads", type=int, help="Threads (default: TVM_NUM_THREADS, else the physical cores).")
@target_option()
@model_file_option()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of streaming.")
def command(
    model: Path,
    prompt: str | None,
    quant: Any,
    threads: int | None,
    target: str,
    model_file: Path | None,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Generate from PROMPT (or standard input) with MODEL, an artifact or a checkpoint (Hugging Face, GGUF, MLC)."""
    from ..llm import LLM
    from ..runtime.sampling import SamplingParams
    from .input import argument, standard_input
    from .terminal import shown

    params = SamplingParams(**sampling)
    text = standard_input() if prompt is None else argument(prompt)
    with progress_bar() as progress:
        llm = LLM(model, quant, threads, target=target, model_file=model_file, progress=progress)
    start = time.perf_counter()
    if as_json:
        output = llm.generate(text, params)[0]
        answer = output.outputs[0]
        spent = time.perf_counter() - start
        result = {
            "prompt": text,
            "prompt_tokens": len(output.prompt_token_ids),
            "text": answer.text,
            "token_ids": list(answer.token_ids),
            "finish_reason": answer.finish_reason,
            "seconds": spent,
            "target": llm.artifact.target.name,
        }
        click.echo(json.dumps(result))
        return
    for piece in llm.stream(text, params):
        click.echo(shown(piece) if sys.stdout.isatty() else piece, nl=False)
    click.echo()
    prefill, decode = llm.stats.prefill, llm.stats.decode
    click.echo(
        f"[{prefill.prefill_tokens} prompt tokens at {prefill.tokens_per_second:.0f}/s, "
        f"{decode.decode_tokens} more at {decode.tokens_per_second:.1f}/s, {llm.runner.threads} threads, "
        f"{llm.artifact.target.name}]",
        err=True,
    )
