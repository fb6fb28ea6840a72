"""Random steps to plan: sequences of all kinds whose page tables may begin alike."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from heddle.runtime.plans import PAGE, Division, PlanLayout, PlanSequence

LAYOUT = PlanLayout(max_tokens=300, max_seqs=6, kv_heads=2, tile_rows=8, tree_words=2)

ROOM = LAYOUT.size(40000)
"""Elements of a plan vector for any step of `STEPS`."""


def sequence(
    start: int, rows: int, spare: int = 0, causal: bool = True, family: int = 0, common: int = 0, seed: int = 0
) -> PlanSequence:
    """A sequence with `spare` pages more than it needs, the first `common` of which all of its `family` have."""
    pages = -(-(start + rows) // PAGE) + spare
    shared = np.random.default_rng(family).permutation(1 << 16)[:pages]
    own = np.random.default_rng(1000 + seed).permutation(1 << 16)[:pages]
    return PlanSequence(np.where(np.arange(pages) < common, shared, own).astype(np.int32), start, rows, causal)


START = st.one_of(st.integers(0, 500), st.integers(2000, 9000), st.integers(30000, 50000))
COMMON = st.sampled_from([0, 127, 128, 129, 255, 256, 600, 4000])
STEPS = st.lists(
    st.builds(
        sequence,
        start=START,
        rows=st.one_of(st.just(1), st.integers(1, 50)),
        spare=st.integers(0, 3),
        causal=st.sampled_from([True, True, False]),
        family=st.integers(0, 1),
        common=COMMON,
        seed=st.integers(0, 9),
    ),
    max_size=6,
)
DIVISIONS = st.builds(
    Division,
    st.integers(1, 9),
    st.sampled_from([0, 0, 30, 3000, 9000]),
    st.booleans(),
    st.sampled_from([True, True, False]),
)
