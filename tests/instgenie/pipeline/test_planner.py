"""Plans: the best full prefix, and where that is the best choice of full blocks whatever."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import replace
from math import inf, nan
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie.pipeline.planner import IDLE, BlockCosts, LoaderState, StepPlan, plan_step, prefix_times
from instgenie.pipeline.timeline import timeline
from tests.instgenie.pipeline.costs import (
    GRID,
    block_costs,
    busy_times,
    equal_blocks,
    flux_like,
    loader_states,
    prefixes,
)
from tests.instgenie.pipeline.pareto_reference import optimum_ms

CASES = 2_000


def excess(costs: BlockCosts, busy_ms: float = 0.0) -> float:
    """How much longer the plan's step takes than that of the best choice of full blocks, as a share."""
    return plan_step(costs, LoaderState(busy_ms)).step_ms / optimum_ms(costs, busy_ms) - 1


# The best of all prefixes.


@settings(deadline=None, max_examples=300)
@given(block_costs(), loader_states)
def test_plan_is_the_fastest_of_all_prefixes(costs: BlockCosts, loader: LoaderState) -> None:
    fastest_ms = inf
    for predicted_ms, is_full in zip(prefix_times(costs, loader), prefixes(len(costs)), strict=True):
        try:
            played_ms = timeline(costs, loader, is_full).step_ms
        except ValueError:  # a record never fits
            played_ms = inf
        assert predicted_ms == pytest.approx(played_ms, rel=1e-9, abs=1e-12)
        fastest_ms = min(fastest_ms, played_ms)
    assert plan_step(costs, loader).step_ms == pytest.approx(fastest_ms, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(block_costs(), loader_states)
def test_predicted_stall_is_what_happens(costs: BlockCosts, loader: LoaderState) -> None:
    plan = plan_step(costs, loader)
    is_full = [block < plan.full_prefix for block in range(len(costs))]
    assert plan.stall_ms == pytest.approx(timeline(costs, loader, is_full).stall_ms, abs=1e-9)
    assert plan.stall_ms >= 0


def test_some_prefix_balances_loads_and_compute() -> None:
    """Four blocks: 2 in full take 4, while the records of the other two come."""
    costs = equal_blocks(4, masked_ms=1, full_ms=2, load_ms=2)
    assert prefix_times(costs) == [9, 7, 6, 7, 8]
    assert plan_step(costs) == StepPlan(full_prefix=2, step_ms=6, stall_ms=0)


def test_no_blocks() -> None:
    assert plan_step(BlockCosts((), (), (), ())) == StepPlan(full_prefix=0, step_ms=0.0, stall_ms=0.0)


# The best of all choices.


@settings(deadline=None)
@given(block_costs(max_blocks=7), busy_times)
def test_reference_is_the_best_of_all_choices(costs: BlockCosts, busy_ms: float) -> None:
    choices = itertools.product([False, True], repeat=len(costs))
    fastest_ms = min(timeline(costs, LoaderState(busy_ms), choice).step_ms for choice in choices)
    assert optimum_ms(costs, busy_ms) == pytest.approx(fastest_ms, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("blocks", [1, 2, 19, 38, 57])
def test_equal_blocks_have_no_better_choice(blocks: int) -> None:
    assert max(excess(equal_blocks(blocks, masked, 1.0, load)) for load, masked in GRID) < 1e-9


@pytest.mark.parametrize("double_cost", [0.25, 0.5, 0.8, 1.0])
def test_flux_has_no_better_choice_where_single_blocks_save_no_less(double_cost: float) -> None:
    assert max(excess(flux_like(double_cost, load, masked)) for load, masked in GRID) < 1e-9


@pytest.mark.parametrize(("double_cost", "worst"), [(1.05, 0.0204), (1.2, 0.0401), (1.5, 0.088)])
def test_flux_where_double_blocks_save_more(double_cost: float, worst: float) -> None:
    """A better choice has full blocks in the middle. What these would gain, if they could be run."""
    assert max(excess(flux_like(double_cost, load, masked)) for load, masked in GRID) == pytest.approx(worst, rel=0.01)


def test_random_equal_blocks_have_no_better_choice() -> None:
    rng = random.Random(1)
    for _ in range(CASES):
        masked_ms, full_ms, load_ms = (3 * rng.random() for _ in range(3))  # masked may well be slower than full
        costs = equal_blocks(rng.randint(1, 57), masked_ms, full_ms, load_ms)
        assert excess(costs, rng.choice([0.0, 20 * rng.random()])) < 1e-9


def test_random_blocks_with_equal_loads_and_rising_savings_have_no_better_choice() -> None:
    rng = random.Random(2)
    for _ in range(CASES):
        blocks, load_ms = rng.randint(1, 57), 2 * rng.random()
        savings_ms = sorted(3 * rng.random() - 0.5 for _ in range(blocks))
        masked_ms = tuple(0.5 + rng.random() for _ in savings_ms)
        full_ms = tuple(map(sum, zip(masked_ms, savings_ms, strict=True)))
        costs = BlockCosts(masked_ms, full_ms, (load_ms,) * blocks, (1,) * blocks)
        assert excess(costs, rng.choice([0.0, 20 * rng.random()])) < 1e-9


def test_records_of_the_last_blocks_on_the_device_leave_no_better_choice() -> None:
    rng = random.Random(3)
    for _ in range(200):
        blocks = rng.randint(1, 57)
        loads_ms = sorted((rng.choice([0.0, 2 * rng.random()]) for _ in range(blocks)), reverse=True)
        costs = replace(equal_blocks(blocks, rng.random(), 1.0, 0.0), load_ms=tuple(loads_ms))
        assert excess(costs) < 1e-9


def test_random_blocks_lose_what_only_full_blocks_in_the_middle_would_gain() -> None:
    """Everything drawn, 57 blocks: 19 % in the mean, a third at worst. Still the best that can be run."""
    rng = random.Random(4)
    found = []
    for _ in range(60):
        full_ms = tuple(2 * rng.random() for _ in range(57))
        masked_ms = tuple(rng.random() * ms for ms in full_ms)
        found.append(excess(BlockCosts(masked_ms, full_ms, tuple(2 * rng.random() for _ in full_ms), (1,) * 57)))
    assert min(found) > -1e-9
    assert 0.15 < sum(found) / len(found) < 0.25
    assert max(found) < 0.4


# What a plan follows.


@settings(deadline=None)
@given(block_costs(), loader_states, st.data())
def test_slower_loads_never_shorten_a_step(costs: BlockCosts, loader: LoaderState, data: st.DataObject) -> None:
    slower = [load_ms + data.draw(st.floats(0, 2)) if load_ms else 0.0 for load_ms in costs.load_ms]
    slower_ms = plan_step(replace(costs, load_ms=tuple(slower)), loader).step_ms
    assert slower_ms >= plan_step(costs, loader).step_ms * (1 - 1e-9)


@settings(deadline=None)
@given(block_costs(), busy_times, st.integers(0, 14), st.integers(0, 20))
def test_more_buffer_never_lengthens_a_step(costs: BlockCosts, busy_ms: float, buffer_bytes: int, more: int) -> None:
    limited = plan_step(costs, LoaderState(busy_ms, buffer_bytes)).step_ms
    assert plan_step(costs, LoaderState(busy_ms, buffer_bytes + more)).step_ms <= limited * (1 + 1e-9)
    enough = plan_step(costs, LoaderState(busy_ms, sum(costs.load_bytes)))
    assert enough == plan_step(costs, LoaderState(busy_ms))


def test_records_on_the_device_cost_no_load() -> None:
    costs = equal_blocks(57, masked_ms=0.25, full_ms=1.0, load_ms=4.0)
    assert plan_step(costs).full_prefix > 40
    on_device = replace(costs, load_ms=(0.0,) * 57, load_bytes=(0,) * 57)
    assert plan_step(on_device, LoaderState(busy_ms=1000.0, buffer_bytes=0)) == StepPlan(0, 57 * 0.25, 0.0)


def test_plan_counts_on_the_records_that_are_on_the_device() -> None:
    """The last third there: six blocks fewer in full."""
    costs = equal_blocks(57, masked_ms=0.25, full_ms=1.0, load_ms=0.75)
    there = replace(costs, load_ms=(0.75,) * 38 + (0.0,) * 19, load_bytes=(1,) * 38 + (0,) * 19)
    assert (plan_step(costs).full_prefix, plan_step(there).full_prefix) == (19, 13)
    assert plan_step(there).step_ms < plan_step(costs).step_ms


def test_busy_loader_makes_more_blocks_full() -> None:
    costs = equal_blocks(57, masked_ms=0.25, full_ms=1.0, load_ms=0.5)
    prefix = [plan_step(costs, LoaderState(busy_ms)).full_prefix for busy_ms in (0.0, 5.0, 20.0, 1000.0)]
    assert prefix == sorted(prefix)
    assert prefix[0] < prefix[1] < prefix[2] < prefix[3] == 57


def test_plan_is_past_a_record_larger_than_the_buffer() -> None:
    costs = replace(equal_blocks(6, masked_ms=1, full_ms=9, load_ms=0.5), load_bytes=(1, 1, 1, 8, 1, 1))
    assert plan_step(costs, LoaderState(buffer_bytes=8)).full_prefix == 0
    assert plan_step(costs, LoaderState(buffer_bytes=7)).full_prefix == 4
    assert plan_step(costs, LoaderState(buffer_bytes=0)) == StepPlan(full_prefix=6, step_ms=54, stall_ms=0)


@pytest.mark.parametrize("buffer_bytes", [None, 3])
def test_of_equally_fast_prefixes_the_one_that_loads_least(buffer_bytes: int | None) -> None:
    """A mask over the whole picture gains nothing by records; 0.1 does not add up to the same in every order."""
    costs = equal_blocks(57, masked_ms=0.1, full_ms=0.1, load_ms=0.001)
    assert plan_step(costs, LoaderState(buffer_bytes=buffer_bytes)).full_prefix == 57


@pytest.mark.parametrize("buffer_bytes", [None, 8])
def test_planning_takes_no_time(buffer_bytes: int | None) -> None:
    """30 us measured without a limit of the buffer, 45 to 65 us with one."""
    rng = random.Random(5)
    drawn = [tuple(rng.random() for _ in range(57)) for _ in range(3)]
    costs, loader = BlockCosts(drawn[0], drawn[1], drawn[2], (1,) * 57), LoaderState(1.0, buffer_bytes)
    taken = []
    for _ in range(200):
        begin = time.perf_counter()
        plan_step(costs, loader)
        taken.append(time.perf_counter() - begin)
    assert median(taken) < 1e-3


@pytest.mark.parametrize("value", [-1.0, nan, inf])
def test_times_are_finite_and_not_below_0(value: float) -> None:
    with pytest.raises(ValueError, match=f"load_ms of block 1 is {value}, not a finite number from 0"):
        BlockCosts((1, 1), (1, 1), (1, value), (1, 1))
    with pytest.raises(ValueError, match=f"busy_ms is {value}"):
        LoaderState(busy_ms=value)


def test_costs_are_of_the_same_blocks() -> None:
    with pytest.raises(ValueError, match="load_ms has 1 blocks, masked_ms 2"):
        BlockCosts((1, 1), (1, 1), (1,), (1, 1))
    with pytest.raises(ValueError, match="buffer_bytes is -1, below 0"):
        LoaderState(buffer_bytes=-1)
    assert LoaderState(busy_ms=0.0, buffer_bytes=None) == IDLE
