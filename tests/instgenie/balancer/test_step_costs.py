"""Costs as plain numbers say what the models say that they were taken from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.predict import predict
from instgenie.balancer.step_costs import LoadSeconds, StepCosts, TokenSeconds, planned_seconds
from instgenie.edit_cost import EditCost, edit_work
from instgenie.orders import CachePolicy
from instgenie.pipeline.cost import BlockFit, BlockKind, CostModel, LoadFit, SegmentShape
from instgenie.pipeline.planner import BlockCosts, plan_step
from instgenie_cache import TierName
from tests.instgenie.balancer.fleets import Spec, fleet_of

SHAPES = [SegmentShape(7, 5, 40), SegmentShape(3, 20, 40)]
IN_FULL = [SegmentShape(7, 40, 40), SegmentShape(3, 40, 40)]


def a_model() -> CostModel:
    """Whose blocks, masked and full ones, turned out slower than they were fitted."""
    fits: dict[BlockKind, BlockFit] = {
        "double": BlockFit(2.0, 0.5, 0.01, 0.1, 1.0, 9),
        "single": BlockFit(1.0, 0.25, 0.02, 0.0, 1.0, 9),
    }
    loads: dict[TierName, LoadFit] = {"host": LoadFit(0.5, 1e-6), "disk": LoadFit(1.0, 1e-5)}
    head = BlockFit(3.0, 0.1, 0.0, 0.0, 1.0, 9)
    model = CostModel(["double", "double", "single"], fits, head, loads, LoadFit(0.25, 1e-7))
    for _ in range(30):
        model.observe_blocks("double", [(SHAPES, [1.5 * model.blocks["double"].predict(SHAPES)])])
        model.observe_blocks("single", [(IN_FULL, [2.0 * model.blocks["single"].predict(IN_FULL)])])
        model.observe_load("disk", 10**7, 3 * model.loads["disk"].predict(10**7))
    return model


def test_steps_of_masked_segments_take_what_the_calibrated_model_says() -> None:
    model = a_model()
    costs = StepCosts.from_cost_model(model)
    expected_ms = sum(model.blocks_ms(SHAPES)) + model.overhead_ms(SHAPES)
    assert costs.base_seconds + sum(map(costs.segment_seconds, SHAPES)) == pytest.approx(expected_ms / 1000)


def test_segments_in_full_have_a_factor_of_their_own() -> None:
    model = a_model()
    costs = StepCosts.from_cost_model(model)
    one, two = (sum(model.blocks_ms(shapes)) + model.overhead_ms(shapes) for shapes in (IN_FULL[:1], IN_FULL))
    assert costs.segment_seconds(IN_FULL[1]) == pytest.approx((two - one) / 1000)
    assert costs.full.row != pytest.approx(costs.masked.row)


@pytest.mark.parametrize("tier", ["host", "disk"])
def test_loads_of_a_step_are_those_of_its_blocks(tier: TierName) -> None:
    model = a_model()
    load = StepCosts.from_cost_model(model).loads[tier]
    assert load.of(3 * 5000) == pytest.approx(3 * model.load_ms(tier, 5000) / 1000)
    assert load.of(0) == 0


@given(st.integers(1, 30), st.integers(0, 4096), st.sampled_from(["auto", "off"]))
def test_an_idle_replica_takes_what_the_simple_cost_says(steps: int, active_tokens: int, cache: CachePolicy) -> None:
    cost = EditCost(1e-4)
    demand = EditDemand(
        id="e",
        template="t",
        steps=steps,
        passes=1,
        text_tokens=0,
        active_tokens=active_tokens,
        total_tokens=4096,
        cache=cache,
    )
    fleet = fleet_of([Spec("r", "m", warm=(("t", "device"),), costs=StepCosts.from_edit_cost(cost))])
    active = 4096 if cache == "off" else active_tokens
    work = edit_work(steps=steps, passes=1, tokens_active=active, tokens_total=4096, is_cold=False)
    assert predict(fleet, demand).finish == pytest.approx([cost.predict(work)])


times = st.floats(0.01, 10)


@given(times, times, st.just(0.0) | times | st.floats(10, 1e6))
def test_planned_step_is_that_of_the_planner_within_a_block(masked: float, more: float, load: float) -> None:
    blocks = 57
    full = masked + more
    costs = BlockCosts((masked,) * blocks, (full,) * blocks, (load,) * blocks, (0,) * blocks)
    planned = planned_seconds(blocks * masked, blocks * more, blocks * load)
    exact = plan_step(costs).step_ms
    assert planned <= exact * (1 + 1e-9)
    assert exact <= planned + full + min(load, full)
    assert planned <= blocks * full * (1 + 1e-9)


def test_slower_steps_load_and_are_encoded_as_before() -> None:
    loads: dict[TierName, LoadSeconds] = {"host": LoadSeconds(1.0, 2.0)}
    costs = StepCosts(1.0, TokenSeconds(1.0, 2.0, 3.0), TokenSeconds(4.0), loads, 5.0)
    twice = StepCosts(2.0, TokenSeconds(2.0, 4.0, 6.0), TokenSeconds(8.0), loads, 5.0)
    assert costs.slower(2.0) == twice
    assert costs.slower(2.0, base_factor=0.5) == replace(twice, base_seconds=0.5)
