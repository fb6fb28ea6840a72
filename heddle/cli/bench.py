"""`heddle bench`: latency and throughput, of a model in this process or of a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .compile_ import KV_DTYPES
from .progress import progress_bar
from .quant import quant_option
from .target import target_option

if TYPE_CHECKING:
    from ..bench.prompts import Ask, Coder, Lengths
    from ..llm import LLM

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)

LATENCY = {
    "batch_size": "batch",
    "ttft_ms": "TTFT ms",
    "tpot_ms": "TPOT ms",
    "e2el_ms": "E2EL ms",
    "output_throughput": "output tok/s",
    "total_token_throughput": "total tok/s",
}
THROUGHPUT = {
    "num_requests": "requests",
    "duration": "seconds",
    "total_input_tokens": "input tok",
    "total_output_tokens": "output tok",
    "request_throughput": "req/s",
    "output_throughput": "output tok/s",
    "total_token_throughput": "total tok/s",
}
LOADS = {
    "load": "load",
    "completed": "done",
    "failed": "failed",
    "duration": "seconds",
    "request_throughput": "req/s",
    "request_goodput": "good req/s",
    "output_throughput": "output tok/s",
    "total_token_throughput": "total tok/s",
    "concurrency": "concurrency",
    "late_ms": "late ms",
}
TIMES = {
    f"{kind}_{name}_ms": f"{name.upper()} {kind}"
    for name in ("ttft", "tpot", "itl", "e2el")
    for kind in ("mean", "median", "p99")
}


def several(*made: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def decorate(function: F) -> F:
        for option in reversed(made):
            function = option(function)
        return function

    return decorate


MODEL = several(
    click.argument("model", type=PATH),
    quant_option(help="Quantization, where MODEL is compiled here (as in heddle compile)."),
    click.option("--kv-dtype", type=KV_DTYPES, help="Type of the KV cache, where MODEL is compiled here."),
    click.option("--kv-memory", metavar="SIZE", help="KV pool: 2GB, 512MiB, or 50% (of what the weights leave)."),
    click.option("--threads", type=int, help="Threads (default: TVM_NUM_THREADS, else the physical cores)."),
    target_option(),
)
PROMPTS = several(
    click.option("--num-prompts", type=click.IntRange(1), default=100, show_default=True, help="Requests of a run."),
    click.option(
        "--dataset", type=click.Choice(["random", "text", "json"]), help="Default: random, or by --dataset-path."
    ),
    click.option(
        "--dataset-path",
        type=PATH,
        metavar="FILE",
        help="A text to cut prompts out of, or JSON: lines or a list of prompts, messages, ShareGPT conversations.",
    ),
    click.option("--input-len", type=click.IntRange(1), default=512, show_default=True, help="Tokens of a prompt."),
    click.option(
        "--output-len", type=click.IntRange(1), help="Tokens of an answer (default: 128, or as the file says)."
    ),
    click.option("--range-ratio", type=click.FloatRange(0, 1), default=0.0, help="Lengths vary by this part of them."),
    click.option("--prefix-len", type=click.IntRange(0), default=0, help="Tokens that all random prompts begin with."),
    click.option("--seed", default=0, show_default=True, help="Of prompts, lengths and arrivals."),
)
OUTPUT = several(
    click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON."),
    click.option("-o", "--output", type=PATH, metavar="FILE", help="Write the figures as JSON to a file, too."),
)
PLOT = click.option(
    "--plot", type=PATH, metavar="FILE", help="Draw them: a .html (needs nothing) or a .png (matplotlib)."
)


@click.group("bench")
def command() -> None:
    """Measure latency and throughput. docs/performance.md defines the figures."""


@command.command("latency")
@MODEL
@click.option("--batch-size", "batches", type=click.IntRange(1), multiple=True, default=(1,), show_default=True)
@click.option("--input-len", type=click.IntRange(1), default=128, show_default=True, help="Tokens of a prompt.")
@click.option("--output-len", type=click.IntRange(1), default=128, show_default=True, help="Tokens of an answer.")
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True, help="Of which medians are taken.")
@click.option("--warmup", type=click.IntRange(0), default=1, show_default=True, help="Repeats that are not counted.")
@click.option("--seed", default=0, show_default=True)
@OUTPUT
@PLOT
def latency_command(
    model: Path,
    batches: tuple[int, ...],
    input_len: int,
    output_len: int,
    repeat: int,
    warmup: int,
    seed: int,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
    **options: Any,
) -> None:
    """Latency of batches that begin together, with MODEL in this process."""
    from ..bench import plot as plots
    from ..bench.offline import latency
    from ..llm import LLM

    if plot:
        plots.check_path(plot)
    with progress_bar() as progress:
        llm = LLM(model, prefix_cache=False, progress=progress, **options)
        rows = latency(llm, batches, input_len, output_len, repeat, warmup, seed, progress)
    about = show(f"Latency of {model.name}", rows, [LATENCY], as_json, output, **subject(model, llm))
    if plot:
        plots.write(plot, f"Latency of {model.name}", rows, plots.Axis("batch_size", "batch"), plots.LATENCY, about)


@command.command("throughput")
@MODEL
@PROMPTS
@click.option("--ignore-eos/--no-ignore-eos", default=True, show_default=True, help="Go on after end tokens.")
@click.option("--prefix-cache/--no-prefix-cache", default=True, show_default=True)
@OUTPUT
def throughput_command(
    model: Path,
    num_prompts: int,
    dataset: str | None,
    dataset_path: Path | None,
    input_len: int,
    output_len: int | None,
    range_ratio: float,
    prefix_len: int,
    seed: int,
    ignore_eos: bool,
    prefix_cache: bool,
    as_json: bool,
    output: Path | None,
    **options: Any,
) -> None:
    """Throughput of requests that come all at once, with MODEL in this process."""
    from ..bench.offline import prepared, throughput
    from ..bench.prompts import Lengths, random_ids
    from ..llm import LLM

    with progress_bar() as progress:
        llm = LLM(model, prefix_cache=prefix_cache, progress=progress, **options)
    lengths = Lengths(input_len, output_len or 128, range_ratio, prefix_len)
    kind = dataset_kind(dataset, dataset_path)
    requests: Sequence[tuple[Any, int]]
    if kind == "random":
        requests = random_ids(num_prompts, lengths, seed, llm.runner.info.vocab_size)
    else:
        coder = llm.needed_tokenizer()
        requests = prepared(llm, make_asks(kind, dataset_path, num_prompts, lengths, output_len, seed, coder))
    rows = [throughput(llm, requests, ignore_eos)]
    title = f"Throughput of {model.name}"
    show(title, rows, [THROUGHPUT], as_json, output, **subject(model, llm))


@command.command("serve")
@click.option("--base-url", default="http://127.0.0.1:8000", show_default=True, help="The server's address.")
@click.option("--endpoint", type=click.Choice(["completions", "chat"]), default="completions", show_default=True)
@click.option("--model", default="", help="The model's name (default: the server's first).")
@click.option("--api-key", envvar="OPENAI_API_KEY", default="", help="Default: the variable OPENAI_API_KEY.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header of all requests.")
@click.option("--extra-body", default="{}", metavar="JSON", help="More fields of all requests.")
@click.option(
    "--request-rate", "rates", type=float, multiple=True, metavar="N", help="Open loop: requests a second, or inf."
)
@click.option("--concurrency", "widths", type=click.IntRange(1), multiple=True, help="Closed loop: requests at a time.")
@click.option("--burstiness", type=float, default=1.0, show_default=True, help="1 is Poisson, less is burstier.")
@PROMPTS
@click.option("--tokenizer", type=PATH, metavar="DIR", help="Count prompts' tokens by this (default: count words).")
@click.option(
    "--ignore-eos", is_flag=True, help="Ask the server to go on after end tokens (a field of vLLM's and ours)."
)
@click.option("--goodput", multiple=True, metavar="NAME:MS", help="Limits that make a request good: ttft, tpot, e2el.")
@click.option(
    "--num-warmups", type=click.IntRange(0), default=1, show_default=True, help="Requests before each command."
)
@click.option("--timeout", type=float, default=21600.0, help="Seconds of a request.")
@OUTPUT
@PLOT
def serve_command(
    base_url: str,
    endpoint: str,
    model: str,
    api_key: str,
    headers: tuple[str, ...],
    extra_body: str,
    rates: tuple[float, ...],
    widths: tuple[int, ...],
    burstiness: float,
    num_prompts: int,
    dataset: str | None,
    dataset_path: Path | None,
    input_len: int,
    output_len: int | None,
    range_ratio: float,
    prefix_len: int,
    seed: int,
    tokenizer: Path | None,
    ignore_eos: bool,
    goodput: tuple[str, ...],
    num_warmups: int,
    timeout: float,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Measure any server with OpenAI's interface under each --request-rate and --concurrency (default: all at once)."""
    from ..bench import plot as plots
    from ..bench.client import Endpoint
    from ..bench.figures import parse_goals
    from ..bench.prompts import Lengths
    from ..bench.serve import Load, measure
    from ..runtime.tokenizer import Tokenizer

    if plot:
        plots.check_path(plot)
    if not burstiness > 0 or not all(rate > 0 for rate in rates):
        raise click.UsageError("--burstiness and --request-rate must be over 0")
    where = Endpoint(base_url, endpoint, model, api_key, pairs(headers), json_object(extra_body), ignore_eos, timeout)
    lengths = Lengths(input_len, output_len or 128, range_ratio, prefix_len)
    coder = Tokenizer.load(tokenizer) if tokenizer else None
    kind = dataset_kind(dataset, dataset_path)
    asks = make_asks(kind, dataset_path, num_prompts, lengths, output_len, seed, coder)
    loads = [Load(rate=rate, burstiness=burstiness) for rate in rates] + [Load(concurrency=n) for n in widths]
    loads = loads or [Load(rate=float("inf"))]
    with progress_bar() as progress:
        rows = asyncio.run(
            measure(where, asks, loads, warmups=num_warmups, seed=seed, goals=parse_goals(goodput), progress=progress)
        )
    title = f"{rows[0]['model']} at {where.root}"
    columns = LOADS if goodput else {key: name for key, name in LOADS.items() if key != "request_goodput"}
    about = show(title, rows, [columns, {"load": "milliseconds", **TIMES}], as_json, output, server=where.root)
    for row in rows:
        for error, count in row.get("errors", {}).items():
            click.echo(f"{row['load']}: {count} failed: {error}", err=True)
    if plot:
        plots.write(plot, title, rows, plots.load_axis(rows), plots.SERVE, about)


def show(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    tables: Sequence[Mapping[str, str]],
    as_json: bool,
    output: Path | None,
    **more: Any,
) -> dict[str, Any]:
    """Print and save figures; returns what they are from."""
    from ..bench import results

    about = results.about(**more)
    if output:
        output.write_text(results.as_json(about, rows) + "\n")
    if as_json:
        click.echo(results.as_json(about, rows))
        return about
    click.echo(f"{title}\n{about['machine']}\n")
    for columns in tables:
        click.echo(results.table("", rows, columns))
    return about


def subject(model: Path, llm: LLM) -> dict[str, Any]:
    """What was measured."""
    return {"model": str(model), "target": llm.artifact.target.name, "threads": llm.runner.threads}


def dataset_kind(kind: str | None, path: Path | None) -> str:
    """Which dataset is meant; a usage error where that and the path contradict each other."""
    if kind is None:
        kind = "random" if path is None else "json" if path.suffix in (".json", ".jsonl") else "text"
    if (kind == "random") != (path is None):
        raise click.UsageError("--dataset text and json need --dataset-path, random has none")
    return kind


def make_asks(
    kind: str, path: Path | None, count: int, lengths: Lengths, answer: int | None, seed: int, coder: Coder | None
) -> list[Ask]:
    """The requests of a run."""
    from ..bench.prompts import json_asks, random_asks, text_asks

    if path is None:
        return random_asks(count, lengths, seed, coder)
    return (
        text_asks(path, count, lengths, seed, coder) if kind == "text" else json_asks(path, count, answer, seed, coder)
    )


def pairs(headers: Sequence[str]) -> dict[str, str]:
    """Headers as NAME:VALUE."""
    found = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            raise click.UsageError("--header must be NAME:VALUE")
        found[name.strip()] = value.strip()
    return found


def json_object(text: str) -> dict[str, Any]:
    """A JSON object of the command line."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--extra-body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.UsageError("--extra-body must be a JSON object")
    return found
