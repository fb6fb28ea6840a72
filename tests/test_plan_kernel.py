"""The compiled plan builder against NumPy's, bit by bit: on random steps, and through an artifact."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings

from heddle.runtime.plans import Division, PlanBuilder, PlanLayout, PlanSequence, StepArrays
from heddle.runtime.plans.layout import MERGES, TILES
from heddle.runtime.tvm import empty, tensor
from heddle.schedules.compat import tvm
from heddle.schedules.cpu.plan import build_plan
from heddle.schedules.target import TargetProfile
from tests.cpu_targets import TARGETS

from .plan_tools import DIVISIONS, LAYOUT, ROOM, STEPS, sequence

# Few rows in a tile and one head: the same steps give more of everything that is shared or split.
LAYOUTS = [
    LAYOUT,
    PlanLayout(300, 6, kv_heads=1, tile_rows=3),
    PlanLayout(300, 40, kv_heads=8, tile_rows=32, tree_words=1),
]


@functools.cache
def compiled(layout: PlanLayout, target: TargetProfile) -> Callable[..., None]:
    func = build_plan(**dataclasses.asdict(layout), target=target).with_attr("global_symbol", "plan")
    return tvm.compile(func, target=target.tvm_target())["plan"]


def arrays(layout: PlanLayout) -> StepArrays:
    """Arrays that compiled code may share, full of what no plan holds."""
    found = StepArrays(*(empty(a.shape, "int32") for a in StepArrays.around(layout, np.empty(ROOM))))
    for array in found:
        array[...] = -77
    return found


def expect_equal(
    layout: PlanLayout, target: TargetProfile, step: list[PlanSequence], rows_only: bool, division: Division
) -> np.ndarray:
    """Both builders leave the same arrays; returns the plan."""
    mine, reference = arrays(layout), arrays(layout)
    builder = PlanBuilder(layout, mine, functools.partial(compiled(layout, target), *map(tensor, mine)))
    got = builder.build(step, rows_only=rows_only, division=division)
    assert got == PlanBuilder(layout, reference).build(step, rows_only=rows_only, division=division)
    np.testing.assert_array_equal(mine.plan, reference.plan)
    np.testing.assert_array_equal(mine.positions, reference.positions)
    return mine.plan


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["heads 2", "heads 1", "heads 8"])
@pytest.mark.parametrize("rows_only", [False, True])
def test_random_steps(layout: PlanLayout, target: TargetProfile, rows_only: bool) -> None:
    @given(STEPS, DIVISIONS)
    @settings(deadline=None, max_examples=60)
    def check(step: list[PlanSequence], division: Division) -> None:
        expect_equal(layout, target, step, rows_only, division)

    check()


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_states_run_out(target: TargetProfile) -> None:
    """Splits stop at the row whose states no longer fit, and a prefix whose rows' states do not fit is not shared."""
    layout = LAYOUTS[1]
    long = [sequence(20 * 2048 + 5, 1, seed=i) for i in range(6)]
    plan = expect_equal(layout, target, long, True, Division(workers=64))
    assert plan[MERGES] == layout.max_states // 21
    alike = [sequence(20 * 2048 + 5, 1, common=2560, seed=i) for i in range(6)]
    assert expect_equal(layout, target, alike, False, Division())[TILES] == 0
    assert expect_equal(layout, target, alike[:5], False, Division())[TILES] == 2


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_trees_lie_over_the_plan(target: TargetProfile) -> None:
    tree = dataclasses.replace(sequence(2500, 6), parents=np.array([-1, 0, 0, 2, -1, 4]))
    step = [sequence(60, 3), tree, sequence(9000, 1)]
    for division in (Division(), Division(workers=3, window=300)):
        expect_equal(LAYOUT, target, step, False, division)
