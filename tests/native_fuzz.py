"""Damaged artifacts for heddle-run: manifests, tokenizers and weight headers that are wrong somewhere, and files cut short."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heddle.runtime.artifact import sha256
from tests.fuzz_tools import junk, places, spoiled, written
from tests.native_tools import FOUND, call

EDGES = [0, -1, 1, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30]


def linked(artifact: Path, folder: Path) -> Path:
    """A copy of links to the files: one is replaced, never changed."""
    return Path(shutil.copytree(artifact, folder, copy_function=os.link, ignore=shutil.ignore_patterns("ir")))


def put(file: Path, data: bytes) -> None:
    """Replace a file."""
    file.unlink()
    file.write_bytes(data)


def rehash(artifact: Path, name: str) -> None:
    """Write the size and hash that a changed file has now into the manifest, so that it is read further than that."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": sha256(artifact / name), "bytes": (artifact / name).stat().st_size}
    put(artifact / "manifest.json", json.dumps(manifest).encode())


def without_ir(artifact: Path) -> None:
    """Forget the records of the compiler, which nothing reads."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"] = {name: info for name, info in manifest["files"].items() if not name.startswith("ir/")}
    put(artifact / "manifest.json", json.dumps(manifest).encode())


def mutated(data: bytes, rng: random.Random) -> bytes:
    """JSON with one value or a few that do not belong there, sometimes damaged as text as well."""
    value = json.loads(data)
    for _ in range(rng.choice([1, 1, 1, 1, 2, 4])):
        found = [*places(value)]
        if not found:
            break
        holder, key = rng.choice(found)
        change = rng.randrange(6)
        if change == 0:
            del holder[key]
        elif change == 1:
            other, name = rng.choice(found)
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = json.loads(json.dumps(other[name]))
        elif change == 2 and isinstance(holder, dict):
            holder[rng.choice(["foo", "", "type", key * 2])] = junk(rng)
        elif change <= 4 and isinstance(holder[key], int):
            holder[key] = rng.choice(
                [*EDGES, holder[key] + rng.choice([-1, 1, 16]), holder[key] * rng.choice([-1, 2, 3])]
            )
        else:
            holder[key] = junk(rng)
    data = written(value)
    return spoiled(data, rng) if rng.random() < 0.1 else data


def manifest(artifact: Path, rng: random.Random) -> None:
    """A manifest that is wrong somewhere. Lists of hundreds of tensors would hide everything else, so half leave them alone."""
    file = artifact / "manifest.json"
    raw = json.loads(file.read_text())
    kept = {name: raw.pop(name) for name in ("weights", "functions", "files")} if rng.random() < 0.5 else {}
    data = mutated(json.dumps(raw).encode(), rng)
    try:
        value: Any = json.loads(data)
        data = json.dumps({**value, **kept}).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    put(file, data)


def tokenizer(artifact: Path, rng: random.Random) -> None:
    """A tokenizer whose rules, or whose vocabulary, are wrong somewhere."""
    file = artifact / "tokenizer.json"
    raw = json.loads(file.read_text())
    model = raw["model"]
    kept = {}
    if rng.random() < 0.7:  # the rules: all but thousands of tokens and merges
        kept = {name: model.pop(name) for name in ("vocab", "merges") if name in model}
    data = mutated(json.dumps(raw).encode(), rng)
    try:
        value = json.loads(data)
        value["model"] = {**value["model"], **kept}
        data = json.dumps(value).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    put(file, data)
    rehash(artifact, "tokenizer.json")


def weights(artifact: Path, rng: random.Random) -> None:
    """A header of the weights that is wrong, or that says so of its own length."""
    file = artifact / "weights.safetensors"
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.2:
        length = rng.choice([0, 1, size - 1, size + 1, len(data), len(data) - 8, 2**31, 2**63, 2**64 - 1, 2**64 - 8])
    else:
        header = mutated(header, rng)
        header += b" " * (-len(header) % 8)
        length = len(header)
    put(file, length.to_bytes(8, "little") + header + body)
    rehash(artifact, file.name)


def cut(artifact: Path, rng: random.Random) -> None:
    """A file that ends too early, or is missing, or a directory; the manifest sometimes agrees with that.

    Never for the library, which is code: nobody could tell.
    """
    names = sorted(str(p.relative_to(artifact)) for p in artifact.rglob("*") if p.is_file())
    name = rng.choice(names)
    file = artifact / name
    data = file.read_bytes()
    change = rng.randrange(6)
    if change == 0:
        file.unlink()
    elif change == 1:
        file.unlink()
        file.mkdir()
    else:
        put(file, data[: rng.choice([0, 1, 7, 8, rng.randrange(len(data)), len(data) - 1])])
        if change > 3 and name != "manifest.json" and not name.endswith(".so"):
            rehash(artifact, name)


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "manifest": manifest,
    "tokenizer": tokenizer,
    "weights": weights,
    "cut": cut,
}


def complaint(program: Path, artifact: Path, kind: str, number: int, folder: Path, seconds: float = 60) -> str:
    """What is wrong with how `program` takes case `number` of a kind of damage; "" where it refuses it well, or works."""
    damaged = linked(artifact, folder / f"{kind}-{number}")
    options = ("--max-tokens=3", "--threads=1", "--kv-memory=64MB")
    try:
        DAMAGE[kind](damaged, random.Random(f"{kind} {number}"))
        done = call(program, damaged, "The é 1\n 2", "a", *options, seconds=seconds)
    except subprocess.TimeoutExpired:
        return f"{kind} {number}: not done after {seconds} seconds"
    finally:
        shutil.rmtree(damaged)
    said = f"{kind} {number}: code {done.returncode}\n{done.stderr[:3000]}"
    if done.returncode == FOUND:
        return f"sanitizer: {said}"
    if done.returncode == 0:
        return ""
    explained = done.stderr.startswith("heddle-run: ") and not re.search("foreseen|libraries|std::", done.stderr)
    return "" if done.returncode == 1 and explained and done.stdout == "" else said
