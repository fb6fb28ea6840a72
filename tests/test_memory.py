"""Memory: refused with numbers before it runs out, on huge pages where there are any, and reported."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from heddle.runtime import kv_memory, memory
from heddle.runtime.artifact import open_artifact
from heddle.runtime.errors import PoolError
from heddle.runtime.kv_memory import pool_pages, pool_text, share_bytes
from heddle.runtime.memory import HUGE_PAGE, LoadReport, allocate, available_memory, huge_share, load_file, size_text
from heddle.runtime.model import ModelRunner


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) << 10


@pytest.mark.parametrize("count", [0, 1, 4097, HUGE_PAGE, 3 * HUGE_PAGE + 5])
@pytest.mark.parametrize("prefault", [False, True])
def test_allocate(count: int, prefault: bool) -> None:
    data = allocate(count, "a test", prefault=prefault)
    assert (data.dtype, data.shape) == (np.uint8, (count,))
    assert count == 0 or data.ctypes.data % HUGE_PAGE == 0
    assert not data.any()
    data[:] = 7
    assert int(data.sum(dtype=np.int64)) == 7 * count


def test_memory_is_taken_when_touched() -> None:
    before = anonymous()
    data = allocate(64 << 20, "a test")
    assert anonymous() - before < 8 << 20
    data[: 32 << 20] = 1
    assert 30 << 20 < anonymous() - before < 40 << 20
    prefaulted = allocate(32 << 20, "a test", prefault=True)
    assert anonymous() - before > 62 << 20
    assert not prefaulted.any()


def test_memory_goes_back() -> None:
    before = anonymous()
    for _ in range(4):
        allocate(64 << 20, "a test", prefault=True)
    assert anonymous() - before < 70 << 20


def test_more_than_there_is() -> None:
    left, by = available_memory()
    with pytest.raises(PoolError) as caught:
        allocate(4 * left, "the KV pool of 9 pages", fix="give a smaller kv_memory")
    text = str(caught.value)
    assert f"no memory for the KV pool of 9 pages: it needs {size_text(4 * left)}, " in text
    assert "is available" in text
    assert by in text
    assert "give a smaller kv_memory" in text
    assert isinstance(caught.value, MemoryError)


@pytest.mark.parametrize("count", [1 << 62, 1 << 70])
def test_more_than_the_address_space(count: int) -> None:
    with pytest.raises(PoolError, match="no memory for a test: it needs") as caught:
        allocate(count, "a test", reserve=False)
    assert size_text(count) in str(caught.value)


def test_addresses_without_memory() -> None:
    """More addresses than the machine has memory; only what is touched is taken."""
    before = anonymous()
    data = allocate(4 * available_memory()[0], "a test", reserve=False)
    data[0] = data[-1] = data[len(data) // 2] = 1
    assert data[HUGE_PAGE : 2 * HUGE_PAGE].max() == 0
    assert anonymous() - before < 5 * HUGE_PAGE


def test_the_pool_of_a_model(tinydoc: Path) -> None:
    artifact = open_artifact(tinydoc)
    group, context = artifact.manifest.caches[0], artifact.manifest.model.context_length
    assert pool_pages(artifact, None) * group.page_tokens >= 2 * context
    assert pool_pages(artifact, 5 * group.record_bytes + 1) == 5
    with pytest.raises(PoolError, match=f"holds no page: one page needs {size_text(group.record_bytes)}"):
        ModelRunner(artifact, kv_bytes=group.record_bytes - 1, threads=2)
    for count in (1 << 50, 1 << 80):
        pages = count // group.record_bytes
        with pytest.raises(PoolError, match=f"the KV pool of {pages} pages: it needs {size_text(count)}") as caught:
            ModelRunner(artifact, kv_bytes=count, threads=2)
        assert "kv_memory" in str(caught.value)


def test_a_share_of_the_memory(
    tinydoc: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What weights and workspace leave is shared, and both sums are told."""
    artifact = open_artifact(tinydoc)
    needs, group = artifact.manifest.memory, artifact.manifest.caches[0]
    taken = needs.weights_bytes + needs.workspace_bytes
    monkeypatch.setattr(kv_memory, "available_memory", lambda: (taken + 1_000_000, "a test"))
    with caplog.at_level("INFO", "heddle"):
        assert share_bytes(artifact, 0.25) == 250_000
    assert f"KV pool = 25% of ({size_text(taken + 1_000_000)} available - " in caplog.text
    assert (
        f"{size_text(needs.weights_bytes)} weights - {size_text(needs.workspace_bytes)} workspace) = 0.2 MB; a test"
        in caplog.text
    )
    monkeypatch.setattr(kv_memory, "available_memory", lambda: (taken, "a test"))
    with pytest.raises(PoolError, match=r"(?s)no memory is left for a KV pool: .* weights - .* workspace.*a test"):
        share_bytes(artifact, 1.0)
    text = pool_text(artifact, 3)
    assert f"KV pool = 3 pages * {group.record_bytes} bytes (16 tokens of 4 layers in " in text
    assert f") = {size_text(3 * group.record_bytes)}, 48 tokens" in text


def test_a_runner_tells_its_pool(tinydoc: Path, caplog: pytest.LogCaptureFixture) -> None:
    artifact = open_artifact(tinydoc)
    with caplog.at_level("INFO", "heddle"):
        ModelRunner(artifact, kv_bytes=3 * artifact.manifest.caches[0].record_bytes, threads=2)
    assert pool_text(artifact, 3) in caplog.text


def test_available_memory_knows_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, _ = available_memory()
    assert 0 < machine < 1 << 50
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("800000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 300000\n")
    unlimited = tmp_path / "unlimited"
    unlimited.mkdir()
    (unlimited / "memory.max").write_text("max\n")
    files = ("memory.max", "memory.current", "inactive_file")
    monkeypatch.setattr(
        memory, "_control_groups", lambda: [(p, *files) for p in (unlimited, tmp_path / "gone", tmp_path)]
    )
    assert available_memory() == (500000, f"the memory limit of control group {tmp_path}")
    with pytest.raises(PoolError, match=r"it needs 0\.6 MB, 0\.5 MB is available"):
        allocate(600_000, "a test")
    (tmp_path / "memory.current").write_text("2000000\n")
    assert available_memory()[0] == 0


# ------------------------------------------------------------------------------------------------------------ weights
@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, bytes]:
    content = np.random.default_rng(0).bytes(5 * HUGE_PAGE + 12345)
    (tmp_path / "weights").write_bytes(content)
    return tmp_path / "weights", content


@pytest.mark.parametrize(("huge", "holding"), [(False, "mapped"), (True, "copied"), (None, "mapped")])
def test_load(weights: tuple[Path, bytes], huge: bool | None, holding: str) -> None:
    path, content = weights
    data, report = load_file(path, huge=huge)
    assert data.tobytes() == content
    assert data.flags.writeable
    assert data.ctypes.data % mmap.PAGESIZE == 0
    assert (report.holding, report.bytes) == (holding, len(content))
    assert 0 <= report.huge_share <= 1
    assert report.seconds > 0
    data[:5] = 0  # a private mapping: nothing reaches the file
    assert path.read_bytes() == content


def test_the_share_of_huge_pages_is_measured(weights: tuple[Path, bytes]) -> None:
    """How many there are is the system's affair, but where it gives none the report must not claim any."""
    data, report = load_file(weights[0], huge=True)
    assert huge_share(data) == report.huge_share
    small = np.zeros(1000, np.uint8)
    assert 0 <= huge_share(small) <= 1
    if memory.huge_pages_enabled() == "never":
        assert report.huge_share == 0


@pytest.mark.parametrize(
    ("size", "share", "setting", "left", "copy", "reason"),
    [
        (1 << 30, 1.0, "always", 1 << 40, False, "the mapping is on huge pages"),
        (1 << 20, 0.0, "always", 1 << 40, False, "small enough for 4 kB pages"),
        (1 << 30, 0.1, "never", 1 << 40, False, "this system gives no transparent huge pages"),
        (1 << 30, 0.1, "madvise", 1 << 29, False, "there is no memory for a copy"),
        (1 << 30, 0.1, "madvise", 1 << 40, True, "the mapping has 10% on huge pages"),
    ],
)
def test_when_weights_are_copied(
    monkeypatch: pytest.MonkeyPatch, size: int, share: float, setting: str, left: int, copy: bool, reason: str
) -> None:
    monkeypatch.setattr(memory, "huge_pages_enabled", lambda: setting)
    monkeypatch.setattr(memory, "available_memory", lambda: (left, "the test"))
    found, text = memory._holding(size, share, None)
    assert found == copy
    assert reason in text


def test_the_report_is_for_people() -> None:
    report = LoadReport("copied", 1_500_000_000, 0.998, 0.5, "as asked for")
    assert str(report) == "weights copied: 1500 MB, 100% on huge pages, 0.50 s (as asked for)"


def test_a_file_that_shrinks_while_it_is_read(weights: tuple[Path, bytes]) -> None:
    path, content = weights
    with path.open("rb") as file:
        os.truncate(path, 1000)
        with pytest.raises(OSError, match="became shorter while it was read"):
            memory._copy(file.fileno(), len(content), str(path))
