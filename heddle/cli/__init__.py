"""The command line. One file a verb, imported when it is asked for, so that `heddle --help` is quick."""

from __future__ import annotations

import importlib
import json
import logging
import signal
import sys
import traceback
from types import FrameType
from typing import TYPE_CHECKING

import click

from .. import __version__

if TYPE_CHECKING:
    from ..runtime.errors import HeddleError

VERBS = {
    "compile": ("compile_", "Compile a checkpoint into an artifact."),
    "compile-torch": ("compile_torch", "Compile a torch module into an artifact."),
    "run": ("run", "Generate text from a prompt."),
    "chat": ("chat", "Talk with a model, or with a server."),
    "embed": ("embed", "Turn texts into vectors."),
    "serve": ("serve", "Serve a model over HTTP, as OpenAI's interface has it."),
    "bench": ("bench", "Measure latency and throughput, of a model or a server."),
    "eval": ("eval_", "Measure a model on a text: perplexity, distance from another."),
    "package": ("package", "Write a model as a directory that runs without Python."),
    "inspect": ("inspect", "Show what an artifact holds."),
    "check": ("check", "List everything that is wrong with a checkpoint."),
    "export": ("export", "Write a model as a Hugging Face directory."),
    "doctor": ("doctor", "Show what this machine and installation can do."),
    "cache": ("cache", "List or clear compiled models."),
    "replay": ("replay", "Do a trace of an engine again, step for step."),
    "completion": ("completion", "Print the completion script of a shell."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f".{VERBS[name][0]}", __name__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="heddle")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.option("-v", "--verbose", is_flag=True, help="Log what is loaded and how.")
def cli(debug: bool, verbose: bool) -> None:
    """Heddle compiles language models and runs them."""
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 an error that is explained, 2 wrong usage, 128 + n stopped by signal n.

    With --json an error is an object on stdout as well: {"error": {"type", "what", "why", "fix"}}.
    """
    args = sys.argv[1:] if args is None else args
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        # An exception, unlike the default, lets work in progress clean up behind itself. TVM turns what is raised in a
        # callback into a RuntimeError, or drops it, so the number is kept aside.
        stopped.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    as_json = "--json" in (args[: args.index("--")] if "--" in args else args)
    try:
        code = cli.main(args=args, prog_name="heddle", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        if as_json:
            say_error(type(error).__name__, error.format_message(), fix="heddle --help, or --help behind a verb")
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(128 + (stopped[0] if stopped else signal.SIGINT))
    except Exception as error:
        if stopped:
            sys.exit(128 + stopped[0])
        explained = explain(error)
        if "--debug" in args:
            traceback.print_exc()
        else:
            click.echo(f"heddle: {explained}", err=True)
        if as_json:
            say_error(type(error).__name__, explained.what, explained.why, explained.fix)
        sys.exit(1)
    # Who asked a command to stop does not hear of success, even where it could still finish.
    sys.exit(128 + stopped[0] if stopped else code if isinstance(code, int) else 0)


def explain(error: Exception) -> HeddleError:
    """What went wrong, why, and how to fix it; an error that nobody foresaw says how to see its traceback."""
    from ..runtime.errors import HeddleError

    if isinstance(error, HeddleError):
        return error
    return HeddleError(
        f"unexpected {type(error).__name__}: {error}",
        "no part of Heddle has foreseen this error; it may be a bug",
        "run it again as `heddle --debug ...` and report the traceback",
    )


def say_error(kind: str, what: str, why: str = "", fix: str = "") -> None:
    """An error for the program that asked for JSON."""
    click.echo(json.dumps({"error": {"type": kind, "what": what, "why": why, "fix": fix}}))
