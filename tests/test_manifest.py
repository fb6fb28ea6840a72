"""The manifest's schema: what was written is read back, and everything else is refused by the name of its field."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heddle.runtime.errors import ManifestError
from heddle.runtime.manifest import FORMAT_VERSION, Manifest, PlanInfo
from heddle.runtime.plans import PlanLayout

from .artifact_tools import small_manifest


@pytest.fixture
def raw() -> dict[str, Any]:
    return json.loads(small_manifest(dense=True).to_json())


def refused(raw: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(json.dumps(raw))
    return str(caught.value)


def test_round_trip() -> None:
    manifest = small_manifest(dense=True)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert hash(manifest.caches) == hash(Manifest.from_json(manifest.to_json()).caches)  # lists are tuples again


def test_the_real_one(tinydoc: Path) -> None:
    text = (tinydoc / "manifest.json").read_text()
    manifest = Manifest.from_json(text)
    assert manifest.to_json() == text
    assert [f.name for f in manifest.functions] == ["embed", "body", "head"]
    assert manifest.function("body").max_rows == manifest.plan.max_tokens
    heads = {"heads": manifest.model.num_heads, "kv_heads": manifest.model.num_kv_heads}
    assert manifest.plan == PlanInfo.of(PlanLayout.of(manifest.plan.max_tokens, manifest.plan.max_seqs, **heads))
    on_disk = {str(f.relative_to(tinydoc)) for f in tinydoc.rglob("*") if f.is_file()}
    assert set(manifest.files) == on_disk - {"manifest.json"}


def test_unknown_function() -> None:
    with pytest.raises(ManifestError, match=r"no 'tail'; it has body"):
        small_manifest(dense=True).function("tail")


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every field of the schema (not the keys of free dictionaries), as a path of keys and indices."""
    found = []
    if isinstance(value, dict):
        for key, item in value.items():
            found += [(*path, key), *paths(item, (*path, key))]
    elif isinstance(value, list):
        for i, item in enumerate(value):
            found += paths(item, (*path, i))
    return found


FREE = ("tvm", "config", "schemes", "quantized", "generation", "tensors", "offsets", "files", "compile_seconds")
FIELDS = [p for p in paths(json.loads(small_manifest(dense=True).to_json())) if not set(p[:-1]) & set(FREE)]


def text_of(path: tuple[Any, ...]) -> str:
    return "manifest" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def parent(raw: Any, path: tuple[Any, ...]) -> Any:
    for part in path[:-1]:
        raw = raw[part]
    return raw


@pytest.mark.parametrize("path", [p for p in FIELDS if p != ("format_version",)], ids=text_of)
def test_missing_and_mistyped_fields_are_named(raw: dict[str, Any], path: tuple[Any, ...]) -> None:
    damaged = copy.deepcopy(raw)
    del parent(damaged, path)[path[-1]]
    assert refused(damaged) == f"{text_of(path)} is missing"
    damaged = copy.deepcopy(raw)
    parent(damaged, path)[path[-1]] = None
    assert f"{text_of(path)} must be " in refused(damaged)
    assert "found null" in refused(damaged)


def test_every_class_refuses_unknown_fields(raw: dict[str, Any]) -> None:
    for path in {p[:-1] for p in FIELDS}:
        damaged = copy.deepcopy(raw)
        parent(damaged, (*path, "x"))["surprise"] = 1
        assert refused(damaged).startswith(f"{text_of(path)}.surprise is not a known field; known are ")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda raw: raw["model"].update(vocab_size=True), "manifest.model.vocab_size must be int, found true"),
        (lambda raw: raw["model"].update(vocab_size=4.0), "manifest.model.vocab_size must be int, found 4.0"),
        (lambda raw: raw["model"].update(vocab_size="4"), 'manifest.model.vocab_size must be int, found "4"'),
        (
            lambda raw: raw["targets"][0].update(features="avx2"),
            'manifest.targets[0].features must be a list, found "avx2"',
        ),
        (
            lambda raw: raw["targets"][0].update(features=["fma", 2]),
            "manifest.targets[0].features[1] must be str, found 2",
        ),
        (lambda raw: raw["files"].update(x=3), "manifest.files['x'] must be an object, found 3"),
        (lambda raw: raw["files"]["lib/test.so"].pop("bytes"), "manifest.files['lib/test.so'].bytes is missing"),
        (
            lambda raw: raw["weights"][0]["tensors"]["w"].update(shape=[8, "8"]),
            "manifest.weights[0].tensors['w'].shape[1] must be int, found \"8\"",
        ),
        (lambda raw: raw["compile_seconds"].update(a="1"), "manifest.compile_seconds['a'] must be float, found \"1\""),
        (lambda raw: raw.update(functions={}), "manifest.functions must be a list, found {}"),
    ],
)
def test_types_are_exact(raw: dict[str, Any], edit: Callable[[dict[str, Any]], object], expected: str) -> None:
    edit(raw)
    assert refused(raw) == expected


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda raw: raw["functions"][0]["instances"].reverse(), "functions[0].instances must be ordered"),
        (lambda raw: raw["functions"][0].update(instances=[]), "functions[0].instances must be ordered"),
        (lambda raw: raw["functions"][0]["params"].append("v"), "functions[0].params names 'v'"),
        (lambda raw: raw["caches"][0].update(dtype="int3"), "caches[0].dtype is 'int3'; known are float32"),
        (lambda raw: raw["caches"][0].update(record_bytes=511), "record_bytes is 511, its record_shape needs 512"),
        (lambda raw: raw["plan"].update(max_tokens=0), "manifest.plan.max_tokens is 0"),
        (lambda raw: raw["plan"].update(max_seqs=-3), "manifest.plan.max_seqs is -3"),
        (lambda raw: raw["plan"]["offsets"].update(tiles=1), "manifest.plan.offsets is "),
        (lambda raw: raw["files"].pop("weights.safetensors"), "manifest.weights[0].file needs 'weights.safetensors'"),
        (lambda raw: raw["files"].pop("lib/test.so"), "manifest.targets[0].library needs 'lib/test.so'"),
        (lambda raw: raw["targets"].clear(), "manifest.targets must have a target, and each once, found []"),
        (lambda raw: raw["targets"].append(raw["targets"][0]), "and each once, found ['test', 'test']"),
        (
            lambda raw: raw["targets"][0].update(weights="other"),
            "manifest.targets[0].weights is 'other', which manifest.weights lacks (it has ['weights.safetensors'])",
        ),
        (
            lambda raw: raw["files"].update({"a/../../b": raw["files"]["lib/test.so"]}),
            "'a/../../b', which points outside",
        ),
        (
            lambda raw: raw["files"].update({"/etc/passwd": raw["files"]["lib/test.so"]}),
            "'/etc/passwd', which points outs",
        ),
    ],
)
def test_fields_that_disagree(raw: dict[str, Any], edit: Callable[[dict[str, Any]], object], expected: str) -> None:
    edit(raw)
    assert expected in refused(raw)


def test_other_format_version_comes_before_all_else(raw: dict[str, Any]) -> None:
    """Another version has other fields; complaining about those would mislead."""
    future = {"format_version": FORMAT_VERSION + 1, "heddle_version": "9.1", "all": "new"}
    text = refused(future)
    assert f"manifest.format_version is {FORMAT_VERSION + 1}, this Heddle reads {FORMAT_VERSION}" in text
    assert "(9.1)" in text
    del raw["format_version"]
    assert "manifest.format_version is None" in refused(raw)
    assert "manifest.format_version is True" in refused({**raw, "format_version": True})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format_version": 1'])
def test_not_a_manifest(text: str) -> None:
    with pytest.raises(ManifestError, match="not JSON|not an object"):
        Manifest.from_json(text)


def test_every_truncation_is_refused() -> None:
    text = small_manifest(dense=True).to_json().rstrip()
    for length in range(len(text)):
        with pytest.raises(ManifestError):
            Manifest.from_json(text[:length])


def test_the_schema_is_frozen() -> None:
    manifest = small_manifest(dense=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.format_version = 2  # type: ignore[misc]
