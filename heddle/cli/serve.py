"""`heddle serve`: a model over HTTP, as OpenAI's interface has it."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import click

from ..runtime.errors import HeddleError
from .compile_ import KV_DTYPES
from .model_file import model_file_option
from .progress import progress_bar
from .quant import quant_option
from .target import target_option

MAX_WAITING = 512


@click.command("serve")
@click.argument("model", type=click.Path(path_type=Path))
@quant_option()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--served-model-name", "names", multiple=True, help="What requests call MODEL; may be given several times."
)
@click.option(
    "--api-key", "api_keys", multiple=True, envvar="HEDDLE_API_KEY", show_envvar=True, help="Ask for this key."
)
@click.option("--cors-origin", "cors_origins", multiple=True, help="Web pages from here may ask; * is every page.")
@click.option("--certificate", "--ssl-certfile", help="PEM file, for HTTPS.")
@click.option("--key", "--ssl-keyfile", help="PEM file of the certificate's key.")
@click.option(
    "--tools", "--tool-call-parser", default="auto", show_default=True, help="How MODEL writes calls of tools."
)
@click.option("--chat-template", help="A template's file, instead of the model's own.")
@click.option("--threads", type=int, help="Threads (default: TVM_NUM_THREADS, else the cores but one).")
@click.option("--kv-memory", metavar="SIZE", help="Size of the KV cache: 2GB, 512MiB, 50%.")
@click.option("--kv-dtype", type=KV_DTYPES, help="Type of the KV cache, where MODEL is compiled here.")
@click.option("--context-length", "--max-model-len", type=int, help="A shorter context than the model's.")
@click.option("--max-seqs", "--max-num-seqs", type=int, help="Sequences of a step, where MODEL is compiled here.")
@click.option("--step-tokens", default=128, show_default=True, help="Tokens of a step: fewer let decodes wait less.")
@click.option(
    "--policy",
    "--scheduling-policy",
    type=click.Choice(["fcfs", "priority", "fair"]),
    default="fcfs",
    show_default=True,
    help="Who goes first.",
)
@click.option(
    "--preemption",
    type=click.Choice(["recompute", "swap"]),
    default="recompute",
    show_default=True,
    help="What becomes of a request whose pages others need.",
)
@click.option("--swap-memory", metavar="SIZE", help="Host memory for --preemption swap.")
@click.option("--prefix-cache/--no-prefix-cache", default=True, show_default=True, help="Share what prompts share.")
@click.option("--max-waiting", default=MAX_WAITING, show_default=True, help="Requests that wait; more get status 429.")
@click.option("--max-requests", default=1024, show_default=True, help="Requests that are open; more get status 429.")
@click.option("--max-body", default="32MiB", show_default=True, metavar="SIZE", help="Size of a request's body.")
@click.option("--drain-seconds", default=30.0, show_default=True, help="Time for open requests after SIGTERM.")
@click.option("--trace", type=click.Path(), help="A file for heddle replay; it holds all prompts.")
@click.option("--log-format", default="text", show_default=True, type=click.Choice(["text", "json"]))
@target_option()
@model_file_option()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when the server listens.")
def command(
    model: Path,
    names: tuple[str, ...],
    api_keys: tuple[str, ...],
    host: str,
    port: int,
    cors_origins: tuple[str, ...],
    certificate: str | None,
    key: str | None,
    tools: str,
    threads: int | None,
    max_requests: int,
    max_body: str,
    drain_seconds: float,
    log_format: str,
    as_json: bool,
    **engine: Any,
) -> None:
    """Serve MODEL, an artifact or a checkpoint (Hugging Face, GGUF, MLC), as OpenAI's interface has it.

    SIGTERM or Ctrl-C drains: requests that are open are finished, new ones are refused. A second one ends at once.
    """
    try:
        from ..runtime.server.app import bound, serve
    except ModuleNotFoundError as error:
        raise HeddleError(
            f"serving needs the package {error.name}", "it is not installed", "pip install 'heddle[serve]'"
        ) from error
    from ..arguments import byte_count
    from ..async_llm import AsyncLLM
    from ..runtime.server.settings import Settings

    settings = Settings(
        names=names or (default_name(model),),
        host=host,
        port=port,
        certificate=certificate,
        key=key,
        api_keys=api_keys,
        cors_origins=cors_origins,
        tools=tools,
        max_body=byte_count("max_body", max_body),
        max_requests=max_requests,
        drain_seconds=drain_seconds,
        log_format=log_format,
    )

    def ready(url: str) -> None:
        if as_json:
            click.echo(json.dumps({"url": url, "models": list(settings.names), "pid": os.getpid()}))
        else:
            click.echo(f"{settings.names[0]} is served at {url} (OpenAI's interface at {url}/v1)", err=True)

    # An address that cannot be had is known before the model is loaded.
    with contextlib.closing(bound(settings)) as listener:
        with progress_bar() as progress:
            served = AsyncLLM(model, threads=server_threads(threads), progress=progress, **engine)
        serve(served, settings, ready, listener)


def default_name(model: Path) -> str:
    """The name of a folder, without the ending of an artifact."""
    return model.resolve().name.removesuffix(".heddle") or "model"


def server_threads(threads: int | None) -> int:
    """Threads of the engine: as they are asked for, else one core is left for what the server does besides."""
    from ..runtime.threads import thread_count

    if threads is not None or "TVM_NUM_THREADS" in os.environ:
        return thread_count(threads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(thread_count(), cores - 1))
