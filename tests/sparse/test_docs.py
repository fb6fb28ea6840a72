"""The docs of the format layer: generated parts are as they were made, and the tutorial runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from heddle.ir_passes.sparse.errors import FormatError
from heddle.ir_passes.sparse.formats import CSR, EXAMPLE, MATRIX_FORMATS, check_arrays, to_csr, to_ell
from heddle.ir_passes.sparse.formats.draw import example
from heddle.runtime.plans import PAGE

from .cases import matrices
from .page import filled, run_tutorial, scores
from .tools import build, call

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_formats_is_what_is_generated(request: pytest.FixtureRequest) -> None:
    """A change of a format or of its text changes the page: look at it, then run pytest with --update-golden."""
    page = DOCS / "formats.md"
    if request.config.getoption("--update-golden"):
        page.write_text(filled(page.read_text()))
    assert filled(page.read_text()) == page.read_text()
    assert re.findall(r"<!-- generated: (\w+) -->", page.read_text()) == [
        "program",
        "fills",
        "lowered",
        "library",
        "paged",
        "plan",
    ]


@functools.cache
def tutorial() -> tuple[str, dict[str, Any]]:
    return run_tutorial((DOCS / "tutorial_format.md").read_text())


def test_the_tutorial_runs_and_prints_what_it_shows(request: pytest.FixtureRequest) -> None:
    page = DOCS / "tutorial_format.md"
    found, _ = tutorial()
    if request.config.getoption("--update-golden"):
        page.write_text(found)
    assert found == page.read_text()


@given(a=matrices("bsr"))
@settings(max_examples=100, deadline=None)
def test_the_tutorials_format_holds_for_any_matrix(a: CSR) -> None:
    """Rows by slice and number, columns by position: levels that feed coordinates of the output apart from their parent."""
    _, names = tutorial()
    operand = names["to_sell"](a, 2)
    np.testing.assert_array_equal(operand.to_dense(), a.to_dense())
    check_arrays(operand.fmt, operand.arrays, operand.values, a.shape)
    b = np.arange(a.shape[1] * 3, dtype=np.float32).reshape(-1, 3) - 20
    np.testing.assert_array_equal(call(tutorial_spmm(), [*operand.params, b], (a.shape[0], 3)), a.to_dense() @ b)


@functools.cache
def tutorial_spmm() -> Callable[..., None]:
    _, names = tutorial()
    return build(names["spmm"](names["fmt"], 3))


def test_the_tutorial_is_about_50_lines() -> None:
    """The format and its plan: what somebody writes to add one."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "tutorial_format.md").read_text(), re.DOTALL)
    assert sum(bool(line.strip()) for block in blocks[:2] for line in block.splitlines()) <= 55


@pytest.mark.parametrize("name", MATRIX_FORMATS)
def test_drawings_show_the_arrays(name: str) -> None:
    """The numbers of every array, and the values' letters, stand in the docstring's drawing in their order."""
    entry = MATRIX_FORMATS[name]
    _, (operand,) = example(entry)
    assert entry.drawing.count("\n") >= 2
    assert entry.about
    for array in operand.arrays[:1] if name == "balanced" else operand.arrays:  # the others are those of csr
        assert in_order(map(str, array), re.findall(r"-?\d+", entry.drawing)), f"{array} is not drawn"
    letters = [chr(ord("a") + int(v) - 1) for v in operand.values.ravel() if v]
    if name not in ("bsr", "dense"):  # drawn as matrices
        assert in_order(letters, re.findall(r"\b[a-f]\b", entry.drawing))


def in_order(wanted: Iterable[str], among: Iterable[str]) -> bool:
    """Whether the wanted ones are among the others, in this order."""
    rest = iter(among)
    return all(any(w == x for x in rest) for w in wanted)


def test_the_messages_of_the_page_are_those_of_the_checks() -> None:
    table = (DOCS / "formats.md").read_text().split("## Checks")[1].split("## The library")[0]
    documented = [m for line in table.splitlines() if line.startswith("|") for m in re.findall("`([^`]+)`", line)]
    fmt, (indptr, indices) = (operand := to_csr(EXAMPLE)).fmt, operand.arrays
    padded = to_ell(EXAMPLE)
    rows, columns, lengths = padded.arrays
    csr_cases: list[tuple[tuple[np.ndarray, ...], tuple[int, int]]] = [
        ((indptr,), (4, 6)),
        ((indptr.astype(np.int64), indices), (4, 6)),
        ((indptr[:4], indices), (4, 6)),
        ((changed(indptr, 0, 1), indices), (4, 6)),
        ((changed(indptr, 1, 4), indices), (4, 6)),
        ((indptr, changed(indices, 1, 6)), (4, 6)),
        ((indptr, changed(indices, 3, 0)), (4, 6)),
        ((indptr, indices), (4, 7)),
    ]
    cases = [(fmt, arrays, operand.values, shape) for arrays, shape in csr_cases]
    cases.append((padded.fmt, (rows, columns, changed(lengths, 0, 3)), padded.values, (4, 6)))
    raised = []
    for case in cases:
        with pytest.raises(FormatError) as error:
            check_arrays(*case)
        raised.append(str(error.value))
    assert len(documented) == len(raised)
    for message, found in zip(documented, raised, strict=True):
        assert found.startswith(message), f"{message!r} is documented, {found!r} is raised"


def changed(array: np.ndarray, at: int, value: int) -> np.ndarray:
    copy = array.copy()
    copy[at] = value
    return copy


def test_scores_over_paged_tiles() -> None:
    """The page's program, lowered plainly: pages in any order, a partial last page, a sequence without tokens."""
    rng = np.random.default_rng(0)
    lengths = np.array([37, 0, 16, 1], np.int32)
    counts = -(-lengths // PAGE)
    indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    pages = rng.permutation(9).astype(np.int32)[: indptr[-1]]
    queries, keys = (rng.integers(-8, 9, (n, 24)).astype(np.float32) for n in (len(lengths), 9 * PAGE))
    found = call(build(scores()), [indptr, pages, lengths, queries, keys], (len(lengths), 40))
    wanted = np.zeros((len(lengths), 40), np.float32)
    for s, length in enumerate(lengths):
        token = np.arange(length)
        slots = pages[indptr[s] + token // PAGE] * PAGE + token % PAGE
        wanted[s, :length] = keys[slots] @ queries[s]
    np.testing.assert_array_equal(found, wanted)
