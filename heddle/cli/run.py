"""`heddle run`: one prompt, streamed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from .progress import progress_bar
from .quant import quant_option


@click.command("run")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@quant_option()
@click.option("--max-tokens", default=128, show_default=True, help="Most tokens to generate.")
@click.option("--temperature", default=0.7, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-p", default=1.0, show_default=True)
@click.option("--top-k", default=0, show_default=True, help="0 keeps all.")
@click.option("--seed", type=int, help="The same seed gives the same text.")
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option("--threads", type=int, help="Threads (default: TVM_NUM_THREADS, else the physical cores).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of streaming.")
def command(
    model: Path,
    prompt: str | None,
    quant: Any,
    max_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    stop: tuple[str, ...],
    threads: int | None,
    as_json: bool,
) -> None:
    """Generate from PROMPT (or standard input) with MODEL, an artifact or a Hugging Face model directory."""
    from ..llm import LLM
    from ..runtime.sampling import SamplingParams

    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, stop=list(stop)
    )
    text = sys.stdin.read() if prompt is None else prompt
    with progress_bar() as progress:
        llm = LLM(model, quant, threads, progress=progress)
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
        }
        click.echo(json.dumps(result))
        return
    for piece in llm.stream(text, params):
        click.echo(piece, nl=False)
    click.echo()
    prefill, decode = llm.stats.prefill, llm.stats.decode
    click.echo(
        f"[{prefill.prefill_tokens} prompt tokens at {prefill.tokens_per_second:.0f}/s, "
        f"{decode.decode_tokens} more at {decode.tokens_per_second:.1f}/s, {llm.runner.threads} threads]",
        err=True,
    )
