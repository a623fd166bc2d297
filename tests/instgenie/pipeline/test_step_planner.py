"""Plans from what a step's records have to come from, and what is learnt from steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.pipeline.cost import BlockFit, CostModel, LoadFit, SegmentShape
from instgenie.pipeline.guard import PlanGuard
from instgenie.pipeline.planner import BlockCosts, LoaderState
from instgenie.pipeline.policies import PLAN_POLICIES
from instgenie.pipeline.step_planner import StepPlanner, StepSupply
from instgenie.pipeline.step_source import Loaded
from instgenie.pipeline.timeline import timeline
from instgenie_cache import TierName

BLOCKS = 10
SHAPES = [SegmentShape(0, 10, 100)]  # a masked block takes 10 ms, a full one 100
ALL_FROM_DISK: list[TierName | None] = ["disk"] * BLOCKS
FROM_DISK = StepSupply(ALL_FROM_DISK, 50, 50, {}, 10_000)  # 50 ms a record
HERE = StepSupply((None,) * BLOCKS, 50, 0, {}, 10_000)


def some_costs() -> CostModel:
    """A ms a row, a ms a byte of disk; the head is free."""
    fit = BlockFit(0.0, 1.0, 0.0, 0.0, 1.0, 9)
    nothing = BlockFit(0.0, 0.0, 0.0, 0.0, 1.0, 9)
    loads = {"host": LoadFit(0.0, 0.0), "disk": LoadFit(0.0, 1.0), "object": LoadFit(0.0, 10.0)}
    return CostModel(["double"] * BLOCKS, {"double": fit}, nothing, loads)  # type: ignore[arg-type]


def trusting_guard() -> PlanGuard:
    guard = PlanGuard()
    guard.observe_dense(1000.0, 1000.0)
    return guard


def test_first_blocks_run_in_full_where_records_come_slowly() -> None:
    plan = StepPlanner(some_costs()).plan(SHAPES, FROM_DISK)
    always = StepPlanner(some_costs(), PLAN_POLICIES["always_cached"]).plan(SHAPES, FROM_DISK)
    assert 0 < plan.full_prefix < BLOCKS
    assert (always.full_prefix, always.step_ms, always.stall_ms) == (0, 510, 410)
    assert plan.step_ms < always.step_ms
    assert StepPlanner(some_costs()).plan(SHAPES, FROM_DISK, takes_all=True) == always


def test_records_that_are_there_cost_nothing_and_those_before_them_in_the_queue_do() -> None:
    planner = StepPlanner(some_costs(), PLAN_POLICIES["always_cached"])
    alone = planner.plan(SHAPES, FROM_DISK).step_ms
    half = planner.plan(SHAPES, replace(FROM_DISK, tiers=(None,) * 5 + ("disk",) * 5)).step_ms
    behind = planner.plan(SHAPES, replace(FROM_DISK, queued={"disk": 70})).step_ms
    assert (half, behind) == (260, alone + 70)


def test_buffer_that_is_short_costs_time() -> None:
    planner = StepPlanner(some_costs())
    assert planner.plan(SHAPES, replace(FROM_DISK, budget_bytes=50)).step_ms > planner.plan(SHAPES, FROM_DISK).step_ms


def test_guard_is_asked_where_records_are_loaded_and_only_there() -> None:
    planner = StepPlanner(some_costs(), guard=PlanGuard())  # which wants to see a dense step first
    assert planner.plan(SHAPES, FROM_DISK).full_prefix == BLOCKS
    assert planner.plan(SHAPES, HERE).full_prefix == 0


def observed(planner: StepPlanner, segments: list[tuple[SegmentShape, int]], steps: int, slower: float = 1.0) -> None:
    """So many steps of a batch, whose blocks take what they cost times a factor."""
    parts = [
        slower * sum(shape.total_tokens if block < prefix else shape.active_tokens for shape, prefix in segments)
        for block in range(BLOCKS)
    ]
    for _ in range(steps):
        planner.observe_step(segments, 1.0, [*parts, 0.0], {})


def test_guard_is_told_of_steps_with_all_that_they_waited() -> None:
    guard = trusting_guard()
    planner = StepPlanner(some_costs(), guard=guard)
    plan = planner.plan(SHAPES, FROM_DISK)
    segments = [(SHAPES[0], plan.full_prefix)]
    observed(planner, segments, 20)
    assert guard.follows_plan
    parts = [100.0] * plan.full_prefix + [10.0] * (BLOCKS - plan.full_prefix) + [0.0]
    planner.observe_step(segments, plan.step_ms, parts, {}, waited_ms=8000.0)
    assert not guard.follows_plan
    assert planner.plan(SHAPES, FROM_DISK).full_prefix == BLOCKS
    observed(planner, [(SHAPES[0], BLOCKS)], 200)
    assert guard.follows_plan  # its account was paid back by dense steps


def test_guard_compares_with_the_dense_step_of_the_batch() -> None:
    """A step with a lane and a dense edit in it is not slow because they are."""
    others = [(SegmentShape(0, 100, 100), BLOCKS), (SegmentShape(0, 10, 100), BLOCKS)]
    guard = trusting_guard()
    planner = StepPlanner(some_costs(), guard=guard)
    observed(planner, [(SHAPES[0], 0), *others], 50)  # 2100 ms of 3000
    assert guard.follows_plan
    observed(planner, [(SHAPES[0], 0), *others], 50, slower=3.0)
    assert not guard.follows_plan


@pytest.mark.parametrize("shape", [SegmentShape(0, 10, 100), SegmentShape(0, 100, 100)])
@pytest.mark.parametrize("predicted_ms", [None, 1.0])
def test_dense_step_tells_the_guard_what_dense_steps_take_whoever_wanted_it(
    shape: SegmentShape, predicted_ms: float | None
) -> None:
    guard = PlanGuard()
    prefix = 0 if shape.active_tokens == shape.total_tokens else BLOCKS
    StepPlanner(some_costs(), guard=guard).observe_step([(shape, prefix)], predicted_ms, [100.0] * BLOCKS + [0.0], {})
    assert guard.follows_plan


def test_guard_is_not_told_of_steps_that_nobody_planned() -> None:
    guard = trusting_guard()
    planner = StepPlanner(some_costs(), guard=guard)
    planner.observe_step([(SHAPES[0], 0)], None, [9000.0] * BLOCKS + [0.0], {})
    assert guard.follows_plan
    planner.observe_step([(SHAPES[0], 0)], 100.0, [9000.0] * BLOCKS + [0.0], {})
    assert not guard.follows_plan


def test_edits_that_load_are_tried_again_though_others_never_have_to() -> None:
    """Those whose records are at hand go on as ever while plans are off: no step of the batch is dense."""
    planner = StepPlanner(some_costs(), guard=trusting_guard())
    here = (SegmentShape(0, 10, 100), 0)
    planner.observe_step([here, (SHAPES[0], 0)], 1.0, [500.0] * BLOCKS + [0.0], {})
    assert planner.plan(SHAPES, FROM_DISK, beside=SHAPES).full_prefix == BLOCKS
    observed(planner, [here, (SHAPES[0], BLOCKS)], 10)
    assert planner.plan(SHAPES, FROM_DISK, beside=SHAPES).full_prefix < BLOCKS


def test_costs_of_blocks_follow_their_computation_and_not_their_waiting() -> None:
    planner = StepPlanner(some_costs())
    for _ in range(30):
        planner.observe_step([(SHAPES[0], 0)], 1.0, [520.0] * BLOCKS + [0.0], dict.fromkeys(range(BLOCKS), 500.0))
    assert planner.costs.block_ms("double", SHAPES) == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("predicted_ms", [None, 1.0])
def test_full_and_masked_blocks_of_a_step_teach_each_their_own(predicted_ms: float | None) -> None:
    planner = StepPlanner(some_costs())
    for _ in range(60):
        planner.observe_step([(SHAPES[0], 5)], predicted_ms, [200.0] * 5 + [40.0] * 5 + [0.0], {})
    full = [shape.in_full() for shape in SHAPES]
    assert planner.costs.block_ms("double", full) > 1.5 * 100
    assert planner.costs.block_ms("double", SHAPES) > 3 * 10


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, BLOCKS)), min_size=1, max_size=8))
def test_costs_that_are_right_stay_so_whatever_a_batch_is_of(edits: list[tuple[int, int]]) -> None:
    planner = StepPlanner(some_costs())
    observed(planner, [(SegmentShape(0, active, 100), prefix) for active, prefix in edits], 10)
    assert planner.costs.block_ms("double", SHAPES) == pytest.approx(10)
    assert planner.costs.block_ms("double", [SHAPES[0].in_full()]) == pytest.approx(100)


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, BLOCKS)), min_size=1, max_size=8))
def test_costs_follow_a_machine_that_is_slower_whatever_a_batch_is_of(edits: list[tuple[int, int]]) -> None:
    planner = StepPlanner(some_costs())
    segments = [(SegmentShape(0, active, 100), prefix) for active, prefix in edits]
    observed(planner, segments, 40, slower=3.0)
    for block in range(1, BLOCKS):
        shapes = [shape.in_full() if block < prefix else shape for shape, prefix in segments]
        rows = sum(shape.active_tokens for shape in shapes)
        assert planner.costs.block_ms("double", shapes) == pytest.approx(3 * rows, rel=0.25)


def test_what_is_computed_beside_hides_loads() -> None:
    planner = StepPlanner(some_costs())
    few, many = [SegmentShape(0, 10, 100)] * 2, [SegmentShape(0, 10, 100)] * 4
    prefixes = [planner.plan(SHAPES, FROM_DISK, beside=beside).full_prefix for beside in ((), few, many)]
    assert prefixes[0] > prefixes[1] > prefixes[2]


@given(st.lists(st.integers(1, 100), max_size=7), st.integers(0, BLOCKS))
def test_prefix_of_an_edit_is_the_best_for_its_batch(beside: list[int], other: int) -> None:
    """As every number of full blocks, played through with all that the batch computes."""
    costs, loader = some_costs(), LoaderState(buffer_bytes=10_000)
    others = [SegmentShape(0, active, 100) for active in beside]
    plan = StepPlanner(costs).plan(SHAPES, FROM_DISK, beside=others)
    rows = sum(beside)
    blocks = BlockCosts((10.0 + rows,) * BLOCKS, (100.0 + rows,) * BLOCKS, (50.0,) * BLOCKS, (50,) * BLOCKS)
    step_ms = timeline(blocks, loader, [block < other for block in range(BLOCKS)]).step_ms
    assert plan.step_ms <= step_ms * (1 + 1e-9)
    played = timeline(blocks, loader, [block < plan.full_prefix for block in range(BLOCKS)])
    assert (plan.step_ms, plan.stall_ms) == pytest.approx((played.step_ms, played.stall_ms))


def test_step_takes_what_lies_beside_its_blocks_for_the_whole_batch() -> None:
    model = some_costs()
    costs = CostModel(model.kinds, model.blocks, BlockFit(0.0, 1.0, 0.0, 0.0, 1.0, 9), model.loads)
    assert StepPlanner(costs).plan(SHAPES, HERE).step_ms == 110
    assert StepPlanner(costs).plan(SHAPES, HERE, beside=SHAPES * 2).step_ms == 330


@pytest.mark.parametrize(("ms", "learns"), [(500.0, True), (1e-9, False)])
def test_load_too_fast_for_a_disk_teaches_nothing(ms: float, learns: bool) -> None:
    planner = StepPlanner(some_costs())
    for _ in range(10):
        planner.observe_load(Loaded("disk", 1000, ms))
    assert (planner.costs.load_ms("disk", 1000) != 1000) == learns


def test_whole_steps_are_loaded_ahead_where_that_hides() -> None:
    planner = StepPlanner(some_costs())
    assert planner.loads_hide(SHAPES, "disk", 100)
    assert not planner.loads_hide(SHAPES, "disk", 101)
