"""The build cache: what makes a key, an equal compilation found again, and a size that stays within its limit."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heddle.compiler import build_cache, driver
from heddle.compiler.artifact_writer import ArtifactWriter
from heddle.compiler.driver import compile_model
from heddle.runtime.artifact import open_artifact
from heddle.runtime.errors import HeddleError

from .artifact_tools import copy_artifact, edit_manifest, flip_byte, small_manifest

MODEL = Path(__file__).parents[1] / "examples" / "tinydoc"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HEDDLE_CACHE_LIMIT", raising=False)
    return tmp_path / "cache"


def build(path: Path) -> Path:
    """A small artifact."""
    with ArtifactWriter(path) as writer:
        writer.write_text("lib/test.so", "x" * 1000)
        writer.write_weights("weights.safetensors", [("w", "uint8", (8,))], lambda name: np.zeros(8, np.uint8))
        writer.finish(small_manifest())
    return path


def never(path: Path) -> Path:
    pytest.fail("built although it was there")


def fill(*keys: str) -> None:
    """Entries whose last use was in this order, seconds apart, in the past."""
    for i, key in enumerate(keys):
        path = build_cache.find_or_build(key, build)
        used = time.time() - 100 + i
        os.utime(path, (used, used))


def keys() -> list[str]:
    return [entry.key for entry in build_cache.entries()]


# ---------------------------------------------------------------------------------------------------------------- keys
@pytest.fixture
def key_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The key that compile_model asks the cache for; nothing is compiled."""
    seen: list[str] = []
    monkeypatch.setattr(build_cache, "find_or_build", lambda key, build, *, rebuild: seen.append(key))

    def ask(source: Path, **options: Any) -> str:
        compile_model(source, **options)
        return seen[-1]

    return ask


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def test_equal_compilations_have_one_key(model: Path, key_of: Callable[..., str]) -> None:
    assert key_of(model) == key_of(str(model)) == key_of(model, max_tokens=1024, target="native")


def test_everything_that_changes_the_result_changes_the_key(
    model: Path, key_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = model / "model.safetensors"
    seen = {"first": key_of(model)}
    for name, options in {
        "dtype": {"dtype": "float32"},
        "kv": {"kv_dtype": "float32"},
        "tokens": {"max_tokens": 64},
        "seqs": {"max_seqs": 2},
        "target": {"target": "x86-64-v3"},
        "random": {"random_weights": 0},
        "other random": {"random_weights": 1},
    }.items():
        seen[name] = key_of(model, **options)
    os.utime(weights, ns=(1, 1))
    seen["modified"] = key_of(model)
    shutil.copy2(weights, model / "copy")
    os.replace(model / "copy", weights)
    seen["inode"] = key_of(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.25}))
    seen["config"] = key_of(model)
    (model / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    seen["generation"] = key_of(model)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    seen["template"] = key_of(model)
    with monkeypatch.context() as patch:
        patch.setattr(build_cache, "__version__", "0.0.9")
        seen["heddle"] = key_of(model)
    with monkeypatch.context() as patch:
        patch.setattr(build_cache, "tvm_version", lambda: "0.99")
        seen["tvm"] = key_of(model)
    with monkeypatch.context() as patch:
        patch.setattr(build_cache, "_code_digest", lambda: "another kernel")
        seen["code"] = key_of(model)
    assert len(set(seen.values())) == len(seen), seen
    (model / "README.md").write_text("other words")
    assert key_of(model) == seen["template"]


def test_other_sizes_change_the_key(model: Path, key_of: Callable[..., str]) -> None:
    """Same times, same inode, another header: a checkpoint saved over itself in place."""
    weights = model / "model.safetensors"
    stat, first = weights.stat(), key_of(model)
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    weights.write_bytes((length + 64).to_bytes(8, "little") + data[8 : 8 + length] + b" " * 64 + data[8 + length :])
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights.stat().st_ino == stat.st_ino
    assert key_of(model) != first


def test_the_code_counts() -> None:
    assert len(build_cache._code_digest()) == 64
    assert build_cache.cache_key("a", {"x": 1, "y": 2}) == build_cache.cache_key("a", {"y": 2, "x": 1})
    assert build_cache.cache_key("a", {"x": 1}) != build_cache.cache_key("b", {"x": 1})


# -------------------------------------------------------------------------------------------------------------- lookup
def test_found_again(folder: Path) -> None:
    assert build_cache.lookup("k") is None
    assert not folder.exists()  # looking changes nothing
    path = build_cache.find_or_build("k", build)
    assert path == folder / "k.heddle"
    assert build_cache.lookup("k") == build_cache.find_or_build("k", never) == path
    open_artifact(path, verify="full")


def test_a_second_compilation_builds_nothing(tinydoc: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[Path] = []

    def fake(source: Any, profile: Any, options: Any, output: Path, seconds: Any, progress: Any) -> Path:
        outputs.append(output)
        return Path(shutil.copytree(tinydoc, output, dirs_exist_ok=True))

    monkeypatch.setattr(driver, "_build", fake)
    first = compile_model(model)
    assert outputs == [first]
    assert compile_model(model) == first
    assert outputs == [first]
    assert compile_model(model, use_cache=False) == first  # built anew, into its place
    assert outputs == [first, first]
    os.utime(model / "model.safetensors")
    assert compile_model(model) != first
    assert len(outputs) == 3


def test_a_lookup_is_a_use() -> None:
    fill("a", "b", "c")
    assert keys() == ["c", "b", "a"]
    build_cache.lookup("a")
    assert keys() == ["a", "c", "b"]


@pytest.mark.parametrize("damage", ["byte", "missing", "manifest", "no manifest", "version"])
def test_a_damaged_entry_is_built_again(damage: str) -> None:
    path = build_cache.find_or_build("k", build)
    if damage == "byte":
        flip_byte(path / "lib/test.so", 5)
    elif damage == "missing":
        (path / "weights.safetensors").unlink()
    elif damage == "manifest":
        (path / "manifest.json").write_bytes(b"\xff\0")
    elif damage == "no manifest":
        (path / "manifest.json").unlink()
    else:
        edit_manifest(path, lambda raw: raw.update(format_version=8))
    assert build_cache.lookup("k") is None
    assert build_cache.find_or_build("k", build) == path
    open_artifact(path, verify="full")


def test_built_once_for_all_who_ask(folder: Path) -> None:
    count, found = 0, []

    def slow(path: Path) -> Path:
        nonlocal count
        count += 1
        time.sleep(0.2)
        return build(path)

    threads = [threading.Thread(target=lambda: found.append(build_cache.find_or_build("k", slow))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == 1
    assert found == [folder / "k.heddle"] * 4


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_a_failed_build_leaves_no_entry(folder: Path, kind: type[BaseException]) -> None:
    def fail(path: Path) -> Path:
        with ArtifactWriter(path) as writer:
            writer.write_text("lib/test.so", "half")
            raise kind

    with pytest.raises(kind):
        build_cache.find_or_build("k", fail)
    assert keys() == []
    assert [path.name for path in folder.iterdir()] == [".k.lock"]
    build_cache.find_or_build("k", build)  # and the lock is free
    assert keys() == ["k"]


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(HeddleError, match=r"the build cache .* cannot be written(.|\n)*set HEDDLE_CACHE"):
        build_cache.find_or_build("k", never)


# ---------------------------------------------------------------------------------------------------- list, clear, evict
def test_entries(tinydoc: Path, folder: Path, tmp_path: Path) -> None:
    assert build_cache.entries() == []
    folder.mkdir()
    shutil.move(copy_artifact(tinydoc, tmp_path), folder / "k.heddle")
    (entry,) = build_cache.entries()
    assert (entry.key, entry.path, entry.architecture) == ("k", folder / "k.heddle", "LlamaForCausalLM")
    assert entry.bytes == sum(file.stat().st_size for file in tinydoc.rglob("*") if file.is_file())
    (entry.path / "manifest.json").write_text("{}")
    (entry,) = build_cache.entries()
    assert entry.architecture == "(damaged, or of another version)"
    (folder / "no.heddle").mkdir()
    assert keys() == ["k"]


def test_clear(folder: Path) -> None:
    assert build_cache.clear() == []
    fill("a", "b", "c")
    build_cache.lookup("b")
    assert [entry.key for entry in build_cache.clear(older_than=50)] == ["c", "a"]
    assert keys() == ["b"]
    (entry,) = build_cache.clear()
    assert dataclasses.astuple(entry)[0] == "b"
    assert not list(folder.glob("*.heddle"))


def size_of_one() -> int:
    build_cache.find_or_build("one", build)
    (entry,) = build_cache.entries()
    build_cache.clear()
    return entry.bytes


def test_eviction(monkeypatch: pytest.MonkeyPatch) -> None:
    size = size_of_one()
    monkeypatch.setenv("HEDDLE_CACHE_LIMIT", str(3 * size))
    fill("a", "b", "c")
    assert build_cache.evict() == []
    build_cache.find_or_build("d", build)
    assert keys() == ["d", "c", "b"]  # the least recently used one is gone
    build_cache.lookup("b")
    build_cache.find_or_build("e", build)
    assert keys() == ["e", "b", "d"]
    monkeypatch.setenv("HEDDLE_CACHE_LIMIT", str(size))
    assert [entry.key for entry in build_cache.evict()] == ["b", "d"]
    monkeypatch.setenv("HEDDLE_CACHE_LIMIT", "0")
    build_cache.find_or_build("f", build)
    assert keys() == ["f"]  # what was just built stays, whatever its size
    assert [entry.key for entry in build_cache.evict()] == ["f"]


@pytest.mark.parametrize("text", ["50GB", "-1", "1e9", "", "1.5"])
def test_a_bad_limit_is_found_before_the_work(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HEDDLE_CACHE_LIMIT", text)
    with pytest.raises(HeddleError, match=f"HEDDLE_CACHE_LIMIT='{text}' is not a number of bytes"):
        build_cache.find_or_build("k", never)


def test_leftovers_of_killed_processes_go(folder: Path) -> None:
    folder.mkdir()
    for name in (".dead.heddle.tmp-1", ".dead.heddle.tmp-1-old", ".alive.heddle.tmp-1"):
        (folder / name).mkdir()
        (folder / name / "weights.safetensors").touch()
    with (folder / ".alive.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_cache.evict()
        assert {path.name for path in folder.glob(".*.tmp-*")} == {".alive.heddle.tmp-1"}
    build_cache.clear()
    assert not list(folder.glob(".*.tmp-*"))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_CACHE", "/a")
    assert build_cache.cache_directory() == Path("/a")
    monkeypatch.delenv("HEDDLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert build_cache.cache_directory() == Path("/b/heddle")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert build_cache.cache_directory() == Path.home() / ".cache" / "heddle"
    assert build_cache.size_limit() == build_cache.DEFAULT_LIMIT
