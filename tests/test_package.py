"""`heddle package` up to the program in it, and where the parts of native programs come from. Building: tests/targets."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import pytest

from heddle.cli import main
from heddle.compiler import build_cache
from heddle.compiler.native import package, runner, tools, tvm_files
from heddle.compiler.native.package import chosen_parts, package_model, target_names
from heddle.compiler.native.runner import Runner
from heddle.compiler.native.tvm_files import kept, versions, wheel_pattern
from heddle.runtime.artifact import open_artifact, read_manifest
from heddle.runtime.errors import ArtifactError, HeddleError
from heddle.runtime.manifest import Manifest, WeightsInfo
from tests.artifact_tools import copy_artifact, edit_manifest
from tests.conftest import ROOT


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for what is built: an ELF file and a library, so that no compiler is needed."""
    root = tmp_path / "program"
    for folder in ("bin", "lib"):
        (root / folder).mkdir(parents=True)
    shutil.copy(shutil.which("true") or "", root / "bin" / "heddle-run")
    shutil.copy(tvm_files().libraries[0], root / "lib")
    monkeypatch.setattr(package, "build_runner", lambda arch: Runner(arch, root, runner.licenses(tvm_files())))
    return root


def with_targets(manifest: Manifest, **arch: str) -> Manifest:
    """A manifest with a target for each name (by its arch), of which the last one has weights of its own."""
    (old,), (weights,) = manifest.targets, manifest.weights
    second = WeightsInfo("weights-2.safetensors", weights.tensors)
    targets = []
    for name, kind in arch.items():
        name = name.replace("_", "-")
        targets.append(dataclasses.replace(old, name=name, arch=kind, library=f"lib/{name}.so"))
    targets[-1] = dataclasses.replace(targets[-1], weights=second.file)
    info = manifest.files[weights.file]
    files = {n: i for n, i in manifest.files.items() if n != old.library} | {second.file: info}
    files |= {target.library: info for target in targets}
    return dataclasses.replace(manifest, targets=tuple(targets), weights=(weights, second), files=files)


def test_a_package_is_whole(tinydoc: Path, program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out" / "tinydoc"
    with pytest.raises(SystemExit) as done:
        main(["package", str(tinydoc), "-o", str(output), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert done.value.code == 0
    assert (found["path"], found["targets"]) == (str(output), [open_artifact(tinydoc).target.name])
    assert {p.name for p in output.iterdir()} == {"README.md", "bin", "lib", "licenses", "model", "run.sh"}
    opened = open_artifact(output / "model", verify="full")
    assert not [name for name in opened.manifest.files if name.startswith("ir/")], "the IR is for developers"
    assert "tokenizer.json" in opened.manifest.files
    text = (output / "README.md").read_text()
    for expected in ("LlamaForCausalLM", "glibc 2.", "`lib/libtvm_ffi.so`", *found["targets"], "Nettle"):
        assert expected in text
    held = {str(p.relative_to(output / "licenses")) for p in (output / "licenses").rglob("*") if p.is_file()}
    assert held >= {"heddle/LICENSE", "tvm/LICENSE", "tvm_ffi/LICENSE", "pcre2.txt", "utf8proc.txt", "simdjson.txt"}
    assert "Apache License" in (output / "licenses" / "heddle" / "LICENSE").read_text()
    assert (output / "run.sh").stat().st_mode & 0o111


def test_an_older_package_is_replaced_and_nothing_else(tinydoc: Path, program: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    package_model(tinydoc, output)
    (output / "stray").touch()
    package_model(tinydoc, output)
    assert not (output / "stray").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    with pytest.raises(HeddleError, match="exists and is not a package"):
        package_model(tinydoc, other)
    assert [p.name for p in other.iterdir()] == ["mine"]


def test_an_error_leaves_what_was_there(
    tinydoc: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "it"
    package_model(tinydoc, output)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(package, "readme", full)
    with pytest.raises(HeddleError, match="No space left"):
        package_model(tinydoc, output)
    assert (output / "README.md").is_file()
    assert [p.name for p in output.parent.iterdir()] == ["it"]


def test_only_what_the_architecture_needs_is_taken(tinydoc: Path) -> None:
    manifest = with_targets(read_manifest(tinydoc), x86_64_v4="x86_64", x86_64_v3="x86_64", aarch64_dotprod="aarch64")
    there = chosen_parts(manifest, tinydoc, "aarch64", None)
    assert [target.name for target in there.targets] == ["aarch64-dotprod"]
    assert {"lib/aarch64-dotprod.so", "weights-2.safetensors"} < set(there.files)
    assert not {"lib/x86-64-v3.so", "weights.safetensors"} & set(there.files)
    here = chosen_parts(manifest, tinydoc, "x86_64", ["x86-64-v3"])
    assert [target.name for target in here.targets] == ["x86-64-v3"]
    assert "weights-2.safetensors" not in here.files
    for part in (here, there):
        assert Manifest.from_json(part.to_json()) == part
    with pytest.raises(HeddleError, match=r"no library for x86-64-v3-vnni(.|\n)*--target x86-64-v3-vnni"):
        chosen_parts(manifest, tinydoc, "x86_64", ["x86-64-v3-vnni"])
    without = dataclasses.replace(manifest, targets=manifest.targets[:2])
    with pytest.raises(HeddleError, match=r"no library for aarch64(.|\n)*--target aarch64-dotprod"):
        chosen_parts(without, tinydoc, "aarch64", None)


def test_targets_are_of_the_architecture() -> None:
    assert set(target_names([], "aarch64")) == {"aarch64-i8mm", "aarch64-dotprod"}
    assert target_names(["x86-64-v3", "portable"], "x86_64")[0] == "x86-64-v3"
    assert len(target_names(["portable"], "x86_64")) == 4
    with pytest.raises(HeddleError, match=r"x86-64-v3 is for x86_64, the package for aarch64(.|\n)*--arch x86_64"):
        target_names(["x86-64-v3"], "aarch64")
    with pytest.raises(HeddleError, match="unknown target 'x86-64-v9'"):
        target_names(["x86-64-v9"], "x86_64")


def test_what_cannot_be_packaged_is_refused(tinydoc: Path, tmp_path: Path) -> None:
    encoder = dataclasses.replace(
        read_manifest(tinydoc), model=dataclasses.replace(read_manifest(tinydoc).model, kind="encoder")
    )
    with pytest.raises(HeddleError, match="is an encoder"):
        chosen_parts(encoder, tinydoc, "x86_64", None)
    with pytest.raises(HeddleError, match="quant can be chosen only when a model is compiled"):
        package_model(tinydoc, tmp_path / "out", quant="w4a8")
    with pytest.raises(HeddleError, match="no native runtime for 'riscv64'"):
        package_model(tinydoc, tmp_path / "out", arch="riscv64")
    module = tmp_path / "module"
    module.mkdir()
    (module / "manifest.json").write_text('{"kind": "module"}')
    with pytest.raises(ArtifactError, match="compiled torch module"):
        package_model(module, tmp_path / "out")
    other = copy_artifact(tinydoc, tmp_path / "other")
    edit_manifest(other, lambda raw: raw.update(tvm_version="0.1"))
    with pytest.raises(ArtifactError, match=r"manifest\.tvm_version is 0\.1"):
        package_model(other, tmp_path / "out")
    damaged = tmp_path / "damaged"
    shutil.copytree(tinydoc, damaged)
    (damaged / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        package_model(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tvm_of_another_architecture_comes_from_a_folder_of_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEDDLE_TVM_AARCH64", str(tmp_path))
    with pytest.raises(HeddleError, match="HEDDLE_TVM_AARCH64"):
        tvm_files("aarch64")
    contents = {
        "apache-tvm": ["tvm/lib/libtvm_runtime.so", "tvm/lib/libtvm_compiler.so", "tvm/LICENSE"],
        "apache-tvm-ffi": ["tvm_ffi/lib/libtvm_ffi.so", "tvm_ffi/include/tvm/ffi/c_api.h", "tvm_ffi/core.py"],
    }
    for name, files in contents.items():
        stem = f"{name.replace('-', '_')}-{versions()[name]}"
        with zipfile.ZipFile(tmp_path / f"{stem}-cp311-cp311-manylinux_2_28_aarch64.whl", "w") as wheel:
            for file in [*files, f"{stem}.dist-info/licenses/NOTICE"]:
                wheel.writestr(file, file)
    found = tvm_files("aarch64")
    assert [file.read_text() for file in found.libraries] == ["tvm_ffi/lib/libtvm_ffi.so", "tvm/lib/libtvm_runtime.so"]
    assert not (found.tvm_root / "lib" / "libtvm_compiler.so").exists(), "200 MB that no program needs"
    assert set(found.licenses) == {"tvm/LICENSE", "tvm/NOTICE", "tvm_ffi/NOTICE"}
    assert tvm_files("aarch64") == found
    build_cache.clear(older_than=60)
    assert found.tvm_root.is_dir()
    build_cache.clear()
    assert not found.tvm_root.exists(), "heddle cache clear takes it away"
    assert tvm_files("aarch64") == found
    (found.include / "tvm" / "ffi" / "c_api.h").unlink()
    with pytest.raises(HeddleError, match=r"c_api\.h is missing"):
        tvm_files("aarch64")


def test_what_is_being_made_is_not_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path))
    native = tmp_path / "native"
    (native / "left.tmp-1").mkdir(parents=True)

    def make(scratch: Path) -> Path:
        build_cache.clear()
        assert [path for path in native.iterdir() if path.is_dir()] == [scratch], "what a killed process left is gone"
        (scratch / "made").mkdir()
        return scratch / "made"

    assert kept(native / "it", make).is_dir()
    build_cache.clear()
    assert not (native / "it").exists()


def test_tvm_of_another_architecture_needs_a_package_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_CACHE", str(tmp_path / "cache"))
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HEDDLE_TVM_AARCH64", raising=False)
    with pytest.raises(
        HeddleError, match=r"could not be fetched(.|\n)*No matching distribution(.|\n)*HEDDLE_TVM_AARCH64"
    ):
        tvm_files("aarch64")
    left = [path.name for path in (tmp_path / "cache" / "native").iterdir()]
    assert [name for name in left if not name.endswith(".lock")] == [], "nothing is left of what failed"
    assert wheel_pattern("apache-tvm", "1.0", "aarch64") == "apache_tvm-1.0-*aarch64.whl"


def test_what_building_lacks_is_listed_with_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert {"cmake", "ninja-build", "g++", "binutils"} == set(tools.missing("x86_64").values())
    with pytest.raises(
        HeddleError, match=r"cannot be built here: cmake, ninja, (.|\n)*apt-get install .*g\+\+-aarch64"
    ):
        tools.require("aarch64")
    fake = tmp_path / "cxx"  # finds no header
    fake.write_text('#!/bin/sh\nfor word in pcre2.h nettle/sha2.h; do echo "lacks $word"; done\n')
    fake.chmod(0o755)
    assert tools.missing_headers(str(fake)) == ["pcre2.h", "nettle/sha2.h"]
    monkeypatch.setenv("HEDDLE_CXX_AARCH64", "no-such-compiler")
    with pytest.raises(HeddleError, match=r"no C\+\+ compiler for aarch64(.|\n)*no-such-compiler"):
        tools.cxx("aarch64")


def test_a_sysroot_must_have_the_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDDLE_SYSROOT_AARCH64", str(tmp_path))
    with pytest.raises(HeddleError, match=r"lacks usr/include/pcre2\.h(.|\n)*arm64"):
        tools.sysroot("aarch64")
    for name in tools.HEADERS:
        (tmp_path / "usr" / "include" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "usr" / "include" / name).touch()
    assert tools.sysroot("aarch64") == tmp_path


def test_a_system_without_apt_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HeddleError, match=r"apt-get: (.|\n)*HEDDLE_SYSROOT_AARCH64"):
        tools.fetch_debian(tmp_path / "scratch", ["libpcre2-dev"], "aarch64", "HEDDLE_SYSROOT_AARCH64")


def test_libraries_of_the_system_are_not_shipped(tmp_path: Path) -> None:
    runtime = tvm_files().libraries[1]
    assert "libtvm_ffi.so" in runner.needed(runtime)
    runner.collect(runtime, tmp_path, [tvm_files().ffi_root / "lib"], "x86_64")
    assert [p.name for p in tmp_path.iterdir()] == ["libtvm_ffi.so"]


def test_the_sources_of_the_runner_are_part_of_the_package() -> None:
    assert runner.sources() == ROOT / "runtime" / "native"
