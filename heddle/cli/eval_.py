"""`heddle eval`: a model measured on a text."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from .compile_ import KV_DTYPES
from .progress import progress_bar
from .quant import quant_option
from .target import RUN, target_option

if TYPE_CHECKING:
    from ..evaluate import Perplexity

F = TypeVar("F", bound=Callable[..., Any])
MODEL = click.Path(path_type=Path)


class Lead(click.ParamType):
    """What windows begin with: None for the tokenizer's own choice, else a list of token ids."""

    name = "auto|none|ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int] | None:
        if value in (None, "auto"):
            return None
        if value == "none":
            return []
        if not str(value).isdecimal():
            self.fail(f"{value!r} is neither auto nor none nor a token id", param, ctx)
        return [int(value)]


OPTIONS = (
    click.option("--text", "file", type=MODEL, required=True, metavar="FILE", help="The text, in UTF-8."),
    click.option("--window", type=int, metavar="N", help="Tokens of a window (default: the context, up to 2048)."),
    click.option("--stride", type=int, metavar="N", help="Tokens from window to window (default: half a window)."),
    click.option("--max-tokens", type=int, metavar="N", help="Only the first N tokens of the text."),
    click.option(
        "--bos", "prefix", type=Lead(), help="What windows begin with (default: as the tokenizer frames text)."
    ),
    click.option("--threads", type=int, help="Threads (default: TVM_NUM_THREADS, else the physical cores)."),
    click.option(
        "--per-token",
        type=click.File("w", encoding="utf-8", lazy=False),
        metavar="FILE",
        help="Write a line of JSON for each scored token.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON."),
)


def measured(function: F) -> F:
    """The options that all measurements have."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


@click.group("eval")
def command() -> None:
    """Measure a model on a text. docs/evaluation.md defines the numbers."""


@command.command("perplexity")
@click.argument("model", type=MODEL)
@quant_option(help="Quantization, where MODEL is compiled here (as in heddle compile).")
@click.option("--kv-dtype", type=KV_DTYPES, help="Type of the KV cache, where MODEL is compiled here.")
@target_option()
@measured
def perplexity_command(
    model: Path,
    quant: Any,
    kv_dtype: str | None,
    target: str,
    file: Path,
    window: int | None,
    stride: int | None,
    max_tokens: int | None,
    prefix: list[int] | None,
    threads: int | None,
    per_token: IO[str] | None,
    as_json: bool,
) -> None:
    """Perplexity of MODEL, an artifact or a checkpoint (Hugging Face, GGUF, MLC), on a text, in overlapping windows."""
    from ..evaluate import load, perplexity
    from ..windows import read_text

    text = read_text(file)
    with progress_bar() as progress:
        llm = load(
            model, window=window, quant=quant, kv_dtype=kv_dtype, threads=threads, target=target, progress=progress
        )
        start = time.perf_counter()
        found = perplexity(
            llm, text, window=window, stride=stride, max_tokens=max_tokens, prefix=prefix, progress=progress
        )
    seconds = time.perf_counter() - start
    if per_token:
        write_lines(per_token, found, llm.needed_tokenizer().decode, nats=found.losses)
    if as_json:
        click.echo(json.dumps({"model": str(model), "text": str(file), **found.summary(), "seconds": seconds}))
        return
    click.echo(line(found))
    click.echo(how(found))
    click.echo(f"{seconds:.1f} s, {len(found.losses) / seconds:.0f} scored tokens/s, {llm.runner.threads} threads")


@command.command("compare")
@click.argument("a", type=MODEL)
@click.argument("b", type=MODEL)
@quant_option("--quant-a", help="Quantization of A, where A is compiled here.")
@quant_option("--quant-b", help="Quantization of B, where B is compiled here.")
@click.option("--kv-dtype-a", type=KV_DTYPES, help="Type of A's KV cache, where A is compiled here.")
@click.option("--kv-dtype-b", type=KV_DTYPES, help="Type of B's KV cache, where B is compiled here.")
@target_option("--target-a", f"Of A. {RUN}")
@target_option("--target-b", f"Of B. {RUN}")
@measured
def compare_command(
    a: Path,
    b: Path,
    quant_a: Any,
    quant_b: Any,
    kv_dtype_a: str | None,
    kv_dtype_b: str | None,
    target_a: str,
    target_b: str,
    file: Path,
    window: int | None,
    stride: int | None,
    max_tokens: int | None,
    prefix: list[int] | None,
    threads: int | None,
    per_token: IO[str] | None,
    as_json: bool,
) -> None:
    """How far B is from A, the reference, on a text. Each is an artifact or a checkpoint (Hugging Face, GGUF, MLC).

    Both must have the same vocabulary.
    """
    from ..evaluate import compare, load
    from ..windows import read_text

    text = read_text(file)
    with progress_bar() as progress:
        both: dict[str, Any] = {"window": window, "threads": threads, "progress": progress}
        first = load(a, quant=quant_a, kv_dtype=kv_dtype_a, target=target_a, **both)
        second = load(b, quant=quant_b, kv_dtype=kv_dtype_b, target=target_b, **both)
        start = time.perf_counter()
        found = compare(
            first, second, text, window=window, stride=stride, max_tokens=max_tokens, prefix=prefix, progress=progress
        )
    seconds = time.perf_counter() - start
    if per_token:
        columns = {"nats_a": found.a.losses, "nats_b": found.b.losses, "kl": found.divergence, "agree": found.agree}
        write_lines(per_token, found.a, first.needed_tokenizer().decode, **columns)
    numbers = found.summary()
    if as_json:
        click.echo(json.dumps({"models": [str(a), str(b)], "text": str(file), **numbers, "seconds": seconds}))
        return
    click.echo(f"A  {line(found.a)}")
    click.echo(f"B  {line(found.b)}")
    difference, error = numbers["cross_entropy_difference"], numbers["cross_entropy_difference_error"]
    click.echo(
        f"perplexity of B over A  {numbers['perplexity_ratio']:.5f}  ({difference:+.6f} ± {error:.6f} nats a token)"
    )
    parts = "  ".join(f"{p} % {value:.3g}" for p, value in numbers["kl_percentiles"].items())
    click.echo(f"KL(A || B)  mean {numbers['kl_mean']:.4g} ± {numbers['kl_mean_error']:.2g} nats a token")
    click.echo(f"            {parts}  max {numbers['kl_max']:.3g}")
    click.echo(f"same likeliest token  {numbers['top1_agreement']:.3%}")
    click.echo(how(found.a))


def line(found: Perplexity) -> str:
    """The result in one line."""
    numbers = found.summary()
    return (
        f"perplexity {numbers['perplexity']:.4f}  cross entropy {numbers['cross_entropy']:.5f} ± "
        f"{numbers['cross_entropy_error']:.5f} nats a token  {numbers['bits_per_byte']:.4f} bits a byte"
    )


def how(found: Perplexity) -> str:
    """What was scored, in one line."""
    text, plan = found.text, found.windows
    lead = f"{list(text.prefix)} in front of each" if text.prefix else "nothing in front of them"
    return (
        f"{plan.scored} of {len(text.ids)} tokens ({text.bytes} bytes) scored in {len(plan.windows)} windows of "
        f"{plan.size} with stride {plan.stride}, {lead}"
    )


def write_lines(file: IO[str], found: Perplexity, decode: Callable[..., str], **columns: Iterable[Any]) -> None:
    """One JSON object a line for each scored token: its position, id, text, and the columns."""
    names = list(columns)
    for position, *values in zip(found.windows.positions, *columns.values(), strict=True):
        token = int(found.text.ids[position])
        row = {"position": int(position), "token": token, "text": decode([token], skip_special_tokens=False)}
        file.write(json.dumps(row | {n: v.item() for n, v in zip(names, values, strict=True)}) + "\n")
