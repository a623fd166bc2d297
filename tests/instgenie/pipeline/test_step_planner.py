"""Plans from what a step's records have to come from, and what is learnt from steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from instgenie.pipeline.cost import BlockFit, CostModel, LoadFit, SegmentShape
from instgenie.pipeline.guard import PlanGuard
from instgenie.pipeline.policies import PLAN_POLICIES
from instgenie.pipeline.step_planner import StepPlanner, StepSupply
from instgenie.pipeline.step_source import Loaded
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


def test_guard_is_told_of_steps_with_all_that_they_waited() -> None:
    guard = trusting_guard()
    planner = StepPlanner(some_costs(), guard=guard)
    plan = planner.plan(SHAPES, FROM_DISK)
    parts = [100.0] * plan.full_prefix + [10.0] * (BLOCKS - plan.full_prefix) + [0.0]
    for _ in range(20):
        planner.observe(SHAPES, plan, parts, {}, waited_ms=0.0)
    assert guard.follows_plan
    planner.observe(SHAPES, plan, parts, {}, waited_ms=8000.0)
    assert not guard.follows_plan
    assert planner.plan(SHAPES, FROM_DISK).full_prefix == BLOCKS
    dense = planner.plan(SHAPES, FROM_DISK)
    for _ in range(200):
        planner.observe(SHAPES, dense, [100.0] * BLOCKS + [0.0], {})
    assert guard.follows_plan  # its account was paid back by dense steps


def test_costs_of_blocks_follow_their_computation_and_not_their_waiting() -> None:
    planner = StepPlanner(some_costs())
    plan = planner.plan(SHAPES, HERE)
    for _ in range(30):
        planner.observe(SHAPES, plan, [520.0] * BLOCKS + [0.0], dict.fromkeys(range(BLOCKS), 500.0))
    assert planner.costs.block_ms("double", SHAPES) == pytest.approx(20, rel=0.05)


def test_full_and_masked_blocks_of_a_step_teach_each_their_own() -> None:
    planner = StepPlanner(some_costs())
    plan = replace(planner.plan(SHAPES, HERE), full_prefix=5)
    for _ in range(60):
        planner.observe(SHAPES, plan, [200.0] * 5 + [40.0] * 5 + [0.0], {})
    full = [shape.in_full() for shape in SHAPES]
    assert planner.costs.block_ms("double", full) > 1.5 * 100
    assert planner.costs.block_ms("double", SHAPES) > 3 * 10


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
