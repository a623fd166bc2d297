"""Whatever costs say, steps take 10 % longer than dense ones at most, and good plans are followed."""

from __future__ import annotations

import logging
import random
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.pipeline.guard import PlanGuard

SAVED = 2.0
TOLERANCE = 0.10


def taken(guard: PlanGuard, plan_ms: float, dense_ms: float, fitted_ms: float | None = None) -> float:
    """Take a step as the guard says; the milliseconds that it took."""
    fitted_ms = dense_ms if fitted_ms is None else fitted_ms
    if guard.follows_plan:
        guard.observe_plan(plan_ms, plan_ms / 2, fitted_ms)
        return plan_ms
    guard.observe_dense(dense_ms, fitted_ms)
    return dense_ms


@given(st.lists(st.tuples(st.floats(0.01, 20), st.floats(0.5, 2)), min_size=1, max_size=300), st.floats(0.05, 20))
def test_the_bound_holds_over_any_steps_in_a_row(steps: list[tuple[float, float]], wrong: float) -> None:
    """Plans of any length, in dense steps of any length, whose costs are wrong by one factor."""
    guard = PlanGuard(TOLERANCE, SAVED)
    above, excess, longest = [], 0.0, 0.0
    for plan, dense_ms in steps:
        ms = taken(guard, plan * dense_ms, dense_ms, wrong * dense_ms)
        above.append(ms - (1 + TOLERANCE) * dense_ms)
        excess, longest = max(excess, above[-1]), max(longest, dense_ms)
    sums = [0.0, *accumulate(above)]
    worst = max(after - min(sums[: number + 1]) for number, after in enumerate(sums))
    assert worst <= SAVED * longest + excess + 1e-6


@pytest.mark.parametrize("plan", [0.3, 0.8, 1.05, 1.3, 3.0, 10.0])
@pytest.mark.parametrize("wrong_plan", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("wrong_dense", [0.1, 1.0, 10.0])
def test_many_noisy_edits(plan: float, wrong_plan: float, wrong_dense: float) -> None:
    """Steps of 100 ms, 30 edits of 20: costs that are wrong by up to ten either way, times that scatter by 15 %."""
    generator, guard = random.Random(5), PlanGuard()
    total = dense_total = planned = 0.0
    for _ in range(30 * 20):
        dense_ms = 100 * generator.lognormvariate(0, 0.15)
        plan_ms = 100 * plan * generator.lognormvariate(0, 0.15)
        dense_total += dense_ms
        if guard.follows_plan:
            planned += 1
            guard.observe_plan(plan_ms, 100 * plan * wrong_plan, 100 * wrong_dense)
            total += plan_ms
        else:
            guard.observe_dense(dense_ms, 100 * wrong_dense)
            total += dense_ms
    noticing = (SAVED + max(0.0, plan * 1.6 - 1.1)) * 100
    assert total <= 1.12 * dense_total + noticing  # 2 %: what five noisy dense steps tell wrong of the next
    if plan <= 0.8:
        assert planned > 0.9 * 600
    if plan >= 3:
        assert planned < 0.05 * 600


def test_the_first_step_is_dense_unless_a_dense_one_was_measured() -> None:
    guard = PlanGuard()
    assert not guard.follows_plan
    guard.observe_plan(1.0, 1.0, 100.0)
    assert not guard.follows_plan
    guard.observe_dense(100.0, 50.0)
    assert guard.follows_plan


def test_a_slower_machine_is_no_fault_of_the_plans() -> None:
    guard = PlanGuard()
    guard.observe_dense(100.0, 100.0)
    times = [taken(guard, 300.0, 1000.0, 100.0) for _ in range(30)]  # both are ten times as slow now
    assert times[-10:] == [300.0] * 10


def test_one_odd_step_is_paid_for_by_good_ones() -> None:
    guard = PlanGuard()
    for plan_ms in (30, 30, 250, 30, 30, 30):
        assert taken(guard, plan_ms, 100) in (plan_ms, 100)
    assert guard.follows_plan


def test_a_suspended_machine_is_forgiven_in_time() -> None:
    guard = PlanGuard()
    guard.observe_dense(100.0, 100.0)
    guard.observe_plan(3_600_000.0, 30.0, 100.0)
    times = [taken(guard, 30.0, 100.0) for _ in range(250)]
    assert times[:100] == [100.0] * 100
    assert times[-50:] == [30.0] * 50


def test_failures_are_tried_again_ever_more_rarely() -> None:
    guard = PlanGuard()
    tried = [number for number in range(3000) if taken(guard, 130.0, 100.0) == 130.0]
    gaps = [after - before for before, after in pairwise(tried) if after > before + 1]
    assert gaps == sorted(gaps)
    assert gaps[0] <= 8
    assert gaps[-1] > 250


def test_steps_whose_records_were_at_hand_pass_the_time_and_are_no_failures() -> None:
    guard = PlanGuard()
    guard.observe_dense(100.0, 100.0)
    guard.observe_plan(500.0, 50.0, 100.0)  # 390 too long, 200 were saved
    waited = 0
    while not guard.follows_plan:
        guard.observe_plan(90.0, 90.0, 100.0)  # 20 each
        waited += 1
    assert waited == 10
    for _ in range(3):
        guard.observe_plan(500.0, 50.0, 100.0)  # the second failure, and steps that it could not call off
    waited = 0
    while not guard.follows_plan:
        guard.observe_plan(10.0, 10.0, 100.0)
        waited += 1
    assert 8 <= waited <= 12


def test_plans_that_become_good_are_followed_again() -> None:
    guard = PlanGuard()
    for _ in range(100):
        taken(guard, 500.0, 100.0)
    times = [taken(guard, 30.0, 100.0) for _ in range(100)]
    assert times[-1] == 30.0
    for _ in range(5):
        taken(guard, 500.0, 100.0)
    times = [taken(guard, 30.0, 100.0) for _ in range(60)]
    assert times.count(30.0) > 10  # waits begin short again


def test_each_episode_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    guard = PlanGuard()
    for _ in range(40):
        taken(guard, 500.0, 100.0)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "500.0 ms" in caplog.text
    for _ in range(40):
        taken(guard, 30.0, 100.0)
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.parametrize("measured_ms", [0.0, -1.0])
def test_times_that_are_none_teach_nothing(measured_ms: float) -> None:
    guard = PlanGuard()
    guard.observe_dense(measured_ms, 100.0)
    guard.observe_dense(100.0, measured_ms)
    assert not guard.follows_plan


@pytest.mark.parametrize("numbers", [(-0.1, 2.0), (0.1, -1.0)])
def test_limits_of_settings(numbers: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="below 0"):
        PlanGuard(*numbers)
