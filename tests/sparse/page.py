"""What docs/formats.md shows: the parts between `<!-- generated: name -->` and `<!-- end -->` are made here."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from heddle.ir_passes.sparse.format import Format
from heddle.ir_passes.sparse.formats import csc, csr
from heddle.ir_passes.sparse.formats.draw import library_page
from heddle.ir_passes.sparse.formats.paged import draw_plan, paged
from heddle.ir_passes.sparse.iteration import Iteration, Program, coords
from heddle.ir_passes.sparse.lowering import lower
from heddle.ir_passes.sparse.lowering.fills import add_fills
from heddle.ir_passes.sparse.tensor import Tensor
from heddle.runtime.plans import Division, PlanLayout, PlanSequence, build_plan
from heddle.schedules.compat import tirx

m, n, d, nnz = (tirx.Var(name, "int64") for name in ("m", "n", "d", "nnz"))
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def text(*parts: object) -> str:
    """Blocks of text, as the page shows them."""
    return "\n".join(f"```text\n{part}\n```\n" for part in parts)


def spmm(fmt: Format) -> Program:
    """C[i, k] = sum over j of A[i, j] * B[j, k]."""
    a, b, c = Tensor("A", (m, n), fmt), Tensor("B", (n, d)), Tensor("C", (m, d))
    i, j = coords("i j")
    k = coords("k")
    step = Iteration("spmm", fmt, (i, j), {k: d}, c[i, k], a[i, j] * b[j, k], "sum")
    return Program("spmm", (step,), (a, b, c), (*fmt.aux, a, b, c))


def scores() -> Program:
    """S[s, t] = sum over k of Q[s, k] * K[slot, k], one query a sequence."""
    sequences, tokens, pages, entries, slots = (
        tirx.Var(name, "int64") for name in ("sequences", "tokens", "pages", "entries", "slots")
    )
    fmt = paged(sequences, tokens, pages, entries)
    q, keys, out = Tensor("Q", (sequences, d)), Tensor("K", (slots, d)), Tensor("S", (sequences, tokens))
    s, t, z = coords("s t z")
    k = coords("k")
    step = Iteration("scores", fmt, (s, t, z), {k: d}, out[s, t], q[s, k] * keys[z, k], "sum")
    return Program("scores", (step,), (q, keys, out), (*fmt.aux, q, keys, out))


def readable(script: str) -> str:
    """TVM's text of a function without the types of numbers and casts of indices, and names as they were given."""
    script = re.sub(r"T\.int64\((-?\d+)\)", r"\1", script)
    script = re.sub(r"\b([IT])_1\b", r"\1", script)  # the printer keeps I and T for itself
    while (at := script.find(cast := 'T.Cast("int64", ')) >= 0:
        end = _closing(script, at + len("T.Cast"))
        script = script[:at] + script[at + len(cast) : end] + script[end + 1 :]
    return script


def _closing(text: str, opening: int) -> int:
    """Where the parenthesis that opens at a place is closed."""
    depth = 0
    for at in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if not depth:
            return at
    raise ValueError(f"a parenthesis is not closed in {text!r}")


def statements(program: Program) -> str:
    """The s_tir of a program without imports, declarations, and what blocks read and write."""
    lines = readable(lower(program).script()).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("def "))
    lines[start] = re.sub(r": T\.Buffer\(\(.*?\), \"\w+\"\)", "", lines[start])
    left_out = ("T.reads(", "T.writes(", "T.func_attr(", "# with T.sblock")
    return "\n".join(line for line in lines[start:] if not line.strip().startswith(left_out))


def plan() -> str:
    """A step of four sequences, divided among three workers: two share 2048 tokens, one is long, one brings five rows."""
    layout = PlanLayout(max_tokens=16, max_seqs=4, kv_heads=2, tile_rows=8)
    prefix, own = np.arange(128, dtype=np.int32), np.arange(200, 1000, dtype=np.int32)
    sequences = [
        PlanSequence(np.append(prefix, own[:4]), start=2100, rows=1),
        PlanSequence(np.append(prefix, own[100:101]), start=2050, rows=1),
        PlanSequence(own[200:203], start=40, rows=5),
        PlanSequence(own[300:700], start=6200, rows=1),
    ]
    out = np.zeros(layout.size(sum(len(s.pages) for s in sequences)), np.int32)
    build_plan(layout, out, sequences, rows_only=False, division=Division(workers=3))
    return draw_plan(layout, out)


SECTIONS: dict[str, Callable[[], str]] = {
    "program": lambda: text(spmm(csr(m, n, nnz))),
    "fills": lambda: text(*add_fills(spmm(csc(m, n, nnz))).steps),
    "lowered": lambda: text(statements(spmm(csr(m, n, nnz)))),
    "library": library_page,
    "paged": lambda: text(scores()),
    "plan": lambda: text(plan()),
}


def filled(page: str) -> str:
    """A page with its generated parts made anew; KeyError for a part that nothing makes."""
    return PART.sub(lambda found: f"{found[1]}\n{SECTIONS[found[2]]()}\n{found[3]}", page)


def run_tutorial(page: str) -> tuple[str, dict[str, Any]]:
    """Run the Python blocks of a page in order: the page with what they print as the text behind them, and the namespace."""
    names: dict[str, Any] = {}
    printed = ""

    def visit(block: re.Match[str]) -> str:
        nonlocal printed
        if block[1] == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block[2], "tutorial", "exec"), names)
            printed = out.getvalue()
            return block[0]
        shown, printed = printed, ""
        return f"```text\n{shown}```\n" if shown else block[0]

    page = re.sub(r"```(\w+)\n(.*?)```\n", visit, page, flags=re.DOTALL)
    assert not printed, f"nothing shows what the last block prints:\n{printed}"
    return page, names
