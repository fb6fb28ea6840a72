"""`heddle cache`: the build cache."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..compiler.build_cache import Entry


@click.group("cache")
def command() -> None:
    """List or clear compiled models."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the entries as JSON.")
def list_entries(as_json: bool) -> None:
    """Show every compiled model, the most recently used first."""
    from ..compiler.build_cache import cache_directory, entries, size_limit

    found = entries()
    if as_json:
        place = {"directory": str(cache_directory()), "limit_bytes": size_limit()}
        click.echo(json.dumps({**place, "entries": as_dicts(found)}))
        return
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        click.echo(f"{entry.key}  {entry.bytes / 1e6:10.1f} MB  {used}  {entry.architecture}")
    total = sum(entry.bytes for entry in found)
    click.echo(f"{len(found)} models, {total / 1e6:.1f} of {size_limit() / 1e6:.0f} MB in {cache_directory()}")


@command.command("clear")
@click.option("--older-than", default=0.0, metavar="DAYS", help="Only what was not used for this long.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the removed entries as JSON.")
def clear_entries(older_than: float, yes: bool, as_json: bool) -> None:
    """Remove compiled models."""
    from ..compiler.build_cache import cache_directory, clear

    if not yes:
        click.confirm(f"Remove compiled models in {cache_directory()}?", abort=True, err=True)
    removed = clear(older_than * 86400)
    if as_json:
        click.echo(json.dumps({"directory": str(cache_directory()), "removed": as_dicts(removed)}))
        return
    click.echo(f"removed {len(removed)} models, {sum(e.bytes for e in removed) / 1e6:.1f} MB")


def as_dicts(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Entries of the cache for JSON."""
    return [{**dataclasses.asdict(entry), "path": str(entry.path)} for entry in entries]
