"""`heddle inspect`: what an artifact holds."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .quant import summary

if TYPE_CHECKING:
    from ..runtime.manifest import Manifest


@click.command("inspect")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Check the hash of every file, also of the weights.")
@click.option("--json", "as_json", is_flag=True, help="Print manifest and kernels as JSON.")
def command(artifact: Path, verify: bool, as_json: bool) -> None:
    """Show model, targets, functions, kernels, memory and files of ARTIFACT."""
    from ..runtime.artifact import check_files, is_module, read_manifest
    from ..runtime.errors import ArtifactError
    from ..runtime.manifest import MANIFEST_FILE

    if is_module(artifact):
        from .inspect_module import show

        show(artifact, "full" if verify else "quick", as_json)
        return
    if not (artifact / MANIFEST_FILE).is_file():
        raise ArtifactError(
            f"{artifact} is not an artifact", f"it has no {MANIFEST_FILE}", "give what heddle compile made"
        )
    manifest, used = read_manifest(artifact), kernels(artifact)
    check_files(artifact, manifest, whole=verify)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(manifest), "kernels": used}))
        return
    model, memory = manifest.model, manifest.memory
    name = model.architecture + ", an encoder" * (model.kind == "encoder")
    click.echo(f"{name}, {model.num_layers} layers, hidden {model.hidden_size}, vocabulary {model.vocab_size}")
    click.echo(f"  heads {model.num_heads}/{model.num_kv_heads} of {model.head_dim}, context {model.context_length}")
    click.echo(f"  weights {model.weight_dtype}, KV cache {model.kv_dtype}")
    for site, scheme in summary(model.schemes, model.quantized, model.weight_dtype).items():
        click.echo(f"    {site}: {scheme}")
    for line in targets(manifest):
        click.echo(line)
    click.echo(f"made by heddle {manifest.heddle_version}, tvm {manifest.tvm_version}, tvm-ffi {manifest.ffi_version}")
    for function in manifest.functions:
        instances = ", ".join(f"{i.symbol} (<= {i.max_rows} rows)" for i in function.instances)
        click.echo(f"function {function.name}: {instances}; {len(function.params)} weights")
    for function_name, counts in used.items():
        click.echo(f"  {function_name}: " + ", ".join(f"{name} x{count}" for name, count in counts.items()))
    click.echo(f"memory: {memory.formula}")
    for name, info in manifest.files.items():
        click.echo(f"  {info.bytes:>12} {info.sha256[:12]} {name}")


def targets(manifest: Manifest) -> Iterator[str]:
    """A line for each target; the first that this machine can run is the one that it takes."""
    from ..runtime.artifact import obstacle

    verb = "taken here"
    for target in manifest.targets:
        if lacks := obstacle(target):
            runs = f"not on this machine, which lacks {lacks}"
        else:
            runs, verb = verb, "runs here"
        size = manifest.files[target.library].bytes
        reads = f", reads {target.weights}" * (len(manifest.weights) > 1)
        flags = " ".join(target.features) or "no CPU flags"
        yield f"target {target.name} ({target.arch}, {size / 1e6:.2f} MB, {runs}{reads}): {flags}"


def kernels(path: Path) -> dict[str, dict[str, int]]:
    """How often each function instance calls each kind of kernel, from the record of the legalization's input."""
    counts: dict[str, Any] = collections.defaultdict(collections.Counter)
    text = next(iter(sorted((path / "ir").glob("*-lift_weights.py"))), None)
    function = ""
    for line in text.read_text().splitlines() if text else []:
        words = line.strip()
        if words.startswith("def "):
            function = words[4:].partition("(")[0]
        elif 'T.Call("heddle.' in words:
            counts[function][words.partition('T.Call("heddle.')[2].partition('"')[0]] += 1
    return {name: dict(counter) for name, counter in counts.items()}
