"""`heddle chat`: a conversation in the terminal."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .model_file import model_file_option
from .progress import progress_bar
from .quant import quant_option
from .sampling import sampling_options
from .target import target_option

if TYPE_CHECKING:
    from .sources import Source

HISTORY = "chat_history"
SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")


@click.command("chat")
@click.argument("model", type=click.Path(), metavar="MODEL_OR_URL")
@click.option("--system", help="The system prompt.")
@sampling_options(None, "until the context is full")
@quant_option()
@click.option("--threads", type=int, help="Threads (default: TVM_NUM_THREADS, else the physical cores).")
@click.option("--kv-memory", metavar="SIZE", help="Size of the KV cache: 2GB, 512MiB, 50%.")
@target_option()
@model_file_option()
@click.option("--model", "name", metavar="NAME", help="Which model of a server (default: its first).")
@click.option(
    "--api-key", envvar=["HEDDLE_API_KEY", "OPENAI_API_KEY"], show_envvar=True, help="The key that a server asks for."
)
@click.option("--no-history", is_flag=True, help="Keep no file of what was typed.")
@click.option("--json", "as_json", is_flag=True, help="Read all of the input, then print the conversation as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    system: str | None,
    quant: Any,
    threads: int | None,
    kv_memory: str | None,
    target: str,
    model_file: Path | None,
    name: str | None,
    api_key: str | None,
    no_history: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Talk with MODEL_OR_URL: an artifact, a checkpoint (Hugging Face, GGUF, MLC), or the http:// address of a server.

    In a terminal, /help lists the commands. Without one, every line of the input is a message.
    """
    from ..compiler.build_cache import cache_directory
    from .talk import Conversation
    from .terminal import converse, read_piped, shown, terminal_reader

    is_url = model.startswith(("http://", "https://"))
    local = {"quant": quant, "threads": threads, "kv_memory": kv_memory, "target": target, "model_file": model_file}
    asked = {n for n in ctx.params if ctx.get_parameter_source(n) is click.core.ParameterSource.COMMANDLINE}
    if is_url and (unused := [option for option in local if option in asked]):
        raise click.UsageError(f"--{unused[0].replace('_', '-')} is for a model that runs here, not for a server.")
    if not is_url and name:
        raise click.UsageError("--model is for a server; here MODEL_OR_URL says which model.")
    # What nobody asked for is not sent: servers have their own defaults, and some refuse what is not OpenAI's.
    wanted = {n: v for n, v in sampling.items() if (n in asked if is_url else v not in (None, ()))}
    wanted = {n: list(v) if n == "stop" else v for n, v in wanted.items()}
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not as_json

    def write(text: str) -> None:
        if not as_json:
            click.echo(shown(text) if sys.stdout.isatty() else text, nl=False)

    async def run() -> None:
        source = await open_source(model, is_url, local, name, api_key)
        try:
            talk = Conversation(source, system, wanted)
            if interactive:
                click.echo(f"{source.name}. /help lists commands, Ctrl-D leaves.", err=True)
                read = terminal_reader(None if no_history else cache_directory() / HISTORY)
            else:
                read = read_piped
            await converse(talk, read, write, interactive)
            if as_json:
                click.echo(json.dumps(talk.summary()))
        finally:
            await source.close()

    asyncio.run(run())


async def open_source(model: str, is_url: bool, local: dict[str, Any], name: str | None, api_key: str | None) -> Source:
    """What answers."""
    from .sources import Remote, open_local

    if not is_url:
        with progress_bar() as progress:
            return open_local(Path(model), progress=progress, **local)
    remote = Remote(model, name, api_key)
    try:
        await remote.find_model()
    except BaseException:
        await remote.close()
        raise
    return remote
