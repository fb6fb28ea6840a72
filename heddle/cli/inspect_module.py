"""What `heddle inspect` shows of a compiled torch module."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from .inspect import kernels


def show(path: Path, verify: str, as_json: bool) -> None:
    """Print signature, linears, kernels and files of the artifact at `path`."""
    from ..runtime.artifact import open_module

    manifest = open_module(path, verify).manifest
    used = kernels(path)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(manifest), "kernels": used}))
        return
    click.echo(f"torch module {manifest.source}, returns a {manifest.returns}")
    for label, arrays in (("input", manifest.inputs), ("output", manifest.outputs)):
        for array in arrays:
            click.echo(f"  {label} {array}")
    for name, dim in manifest.dims.items():
        click.echo(f"  {name}: from {dim.least}" + ("" if dim.most is None else f" to {dim.most}"))
    for site, scheme in manifest.schemes.items():
        click.echo(f"  linear {site}: {'as stored' if scheme == 'none' else scheme}")
    for function, counts in used.items():
        click.echo(f"function {function}: " + ", ".join(f"{name} x{count}" for name, count in counts.items()))
    click.echo(f"differs from torch by {manifest.difference:.2g} of the largest output on the example arguments")
    target = manifest.target
    click.echo(f"target {target.name} ({target.arch}): {' '.join(target.features)}")
    click.echo(f"made by heddle {manifest.heddle_version}, tvm {manifest.tvm_version}, tvm-ffi {manifest.ffi_version}")
    for name, info in manifest.files.items():
        click.echo(f"  {info.bytes:>12} {info.sha256[:12]} {name}")
