"""From lowered modules to libraries: several targets at a time, small files, and errors that come through."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from heddle.compiler import variants
from heddle.compiler.codegen import Library, build_library, code_threads
from heddle.ir_passes.passes import PassLog
from heddle.ir_passes.pipeline import Lowered
from heddle.models import architecture
from heddle.runtime.artifact import open_artifact
from heddle.runtime.plans import PlanLayout
from heddle.schedules.compat import ir
from heddle.schedules.target import PROFILES
from tests.test_pipeline import RAW, SCHEMES

TARGETS = [PROFILES[name] for name in ("x86-64-v4", "x86-64-v3")]


def test_libraries_have_kernels_by_name_and_no_debug_information(tinydoc):
    artifact = open_artifact(tinydoc)
    library = artifact.file(artifact.target.library).read_bytes()
    assert b"__tvm_ffi_sample_tokens\0" in library
    assert b".debug_info\0" not in library
    assert b".symtab\0" not in library


def test_targets_share_the_phases_that_know_of_none(monkeypatch, tmp_path):
    """The dialect is lowered once, seconds are counted once, and only the first target keeps texts."""
    ordered: list[tuple[Lowered, str]] = []

    def order(lowered, extra, profile, path: Path, pool) -> Future[Library]:
        ordered.append((lowered, extra["of"]))
        future: Future[Library] = Future()
        future.set_result(Library(path, codegen=2.0, link=0.5))
        return future

    monkeypatch.setattr(variants, "build_library", order)
    arch = architecture(RAW)
    config = arch.config(RAW)
    dtypes = {name: "float16" for name, spec in arch.weights(config).items() if spec.kind != "vector"}
    mod = arch.export(config, dtypes=dtypes, kv_dtype="float16", plan_layout=PlanLayout(64, 4))
    seconds: dict[str, float] = {"legalize": 100.0}
    said: list[tuple[str, int, int]] = []
    with code_threads() as pool:
        made = variants.build_variants(
            mod,
            TARGETS,
            lambda profile: {"of": profile.name},
            tmp_path,
            pool,
            seconds,
            max_tokens=64,
            schemes=SCHEMES,
            report=lambda *what: said.append(what),
        )
    first, second = (variant.lowered for variant in made)
    assert [of for _, of in ordered] == [variant.profile.name for variant in made] == ["x86-64-v4", "x86-64-v3"]
    assert first.weights is second.weights
    assert seconds["legalize"] == pytest.approx(100 + first.seconds["legalize"] + second.seconds["legalize"])
    assert "merge_linears" in seconds
    assert "merge_linears" not in first.seconds
    assert [phase for phase, _ in first.texts][:3] == ["export", "assign_schemes", "merge_linears"]
    assert second.texts == []
    assert [r.phase for r in first.log.records] == [r.phase for r in second.log.records]
    assert [len(group) for group in variants.by_layout(made)] == [2]
    done = list(variants.finished(made, seconds, lambda *what: said.append(what)))
    assert [(v.profile.name, path.name) for v, path in done] == [(p.name, f"{p.name}.so") for p in TARGETS]
    assert (seconds["codegen"], seconds["link"]) == (4.0, 1.0)
    assert said[-1] == ("generating code", 2, 2)


def test_an_error_in_a_kernel_comes_through(tmp_path):
    empty = Lowered(ir.IRModule({}), PassLog(), [], {}, {}, {}, {})
    with code_threads() as pool:
        future = build_library(empty, {"broken": "no function"}, TARGETS[0], tmp_path / "a.so", pool)
        with pytest.raises(AttributeError, match="with_attr"):
            future.result()


def test_what_has_not_begun_is_given_up():
    """After an error or Ctrl-C nobody waits for kernels that nobody wants any more."""
    release, futures = threading.Event(), []

    def interrupted() -> None:
        with code_threads() as pool:
            futures.extend(pool.submit(release.wait, 60) for _ in range(64))
            threading.Timer(0.2, release.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert any(future.cancelled() for future in futures)
