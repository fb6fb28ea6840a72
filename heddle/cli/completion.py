"""`heddle completion`: completion of verbs, options and files in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = {
    "bash": 'eval "$(heddle completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(heddle completion zsh)" in ~/.zshrc',
    "fish": "heddle completion fish > ~/.config/fish/completions/heddle.fish",
}


@click.command("completion", epilog="To switch it on:  " + "\n\n".join(SHELLS.values()))
@click.argument("shell", type=click.Choice(list(SHELLS)))
def command(shell: str) -> None:
    """Print the script that SHELL needs."""
    from . import cli

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    click.echo(kind(cli, {}, "heddle", "_HEDDLE_COMPLETE").source())
