"""Programs as text: what the language and the rewrites print, held in golden files."""

from __future__ import annotations

from pathlib import Path

import pytest

from heddle.ir_passes.sparse.formats import balanced, band, bsr, csr, dense, hyb
from heddle.ir_passes.sparse.iteration import Program
from heddle.ir_passes.sparse.rewrites.decompose import decompose
from heddle.ir_passes.sparse.rewrites.elide_masks import elide_masks
from heddle.ir_passes.sparse.rewrites.fuse_rows import fuse_rows
from heddle.ir_passes.sparse.rewrites.rewalk import rewalk
from heddle.ir_passes.sparse.rewrites.split import split_level, split_rows
from tests.sparse.rewrite_programs import STEPS, attention, spmm, variables
from tests.sparse.test_attention_program import over_pages
from tests.test_attention_variants import Layer

GOLDEN = Path(__file__).parent / "golden"


def attention_over_pages() -> Program:
    """The program of a layer with a window and capped scores, one pass a row."""
    return over_pages(Layer(4, 2, 64, "float16", (("window", 33), ("softcap", 5.0))))[1]


def programs() -> dict[str, Program]:
    """One program for each thing that prints."""
    m, n, nnz, items = variables("m n nnz items")
    rows, tile = csr(m, n, nnz), dense(m, n)
    over_csr = spmm(rows, m, n)
    scores = attention(csr(m, n, nnz), (m, n))
    return {
        "spmm_csr": over_csr,
        "spmm_bsr": spmm(bsr(m * 4, n * 4, nnz, 4), m * 4, n * 4, order=("IO", "|", "JO", "II", "JI", "k")),
        "spmm_band": spmm(band(m, n, 1, 2), m, n, combine="max"),
        "spmm_balanced": spmm(balanced(m, n, nnz, items), m, n),
        "decomposed": decompose(over_csr, "spmm", hyb(m, n, (1, 4))),
        "elided": elide_masks(decompose(over_csr, "spmm", hyb(m, n, (2,))), ["A_hyb0_ell2"]),
        "split_rows": rewalk(over_csr, rows, split_rows(rows, items, "tiles")),
        "split_level": rewalk(spmm(tile, m, n), tile, split_level(tile, "J", 16)),
        "attention": scores,
        "attention_pages": attention_over_pages(),
        "attention_fused": fuse_rows(scores, STEPS, local={"S": 256, "P": 256, "M": True, "L": True, "O": True}),
    }


PROGRAMS = programs()


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_print_as_they_did(name: str, request: pytest.FixtureRequest) -> None:
    """A change here is a change of what users read: look at it, then run pytest with --update-golden."""
    found, file = str(PROGRAMS[name]) + "\n", GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(found)
    assert found == file.read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(PROGRAMS)
