"""The named ways to choose full blocks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from instgenie.pipeline.planner import IDLE, BlockCosts, LoaderState, plan_step
from instgenie.pipeline.policies import PLAN_POLICIES, PlanPolicyName, always_cached, dense, full_prefix, greedy
from instgenie.pipeline.timeline import timeline
from tests.instgenie.pipeline.costs import GRID, block_costs, equal_blocks, loader_states


def step_ms(policy: PlanPolicyName, costs: BlockCosts, loader: LoaderState = IDLE) -> float:
    return timeline(costs, loader, PLAN_POLICIES[policy](costs, loader)).step_ms


def test_greedy_is_the_published_rule() -> None:
    """Waiting 3 for the record and computing 1 ends before computing 5 in full; 5 later, the second's has come."""
    costs = BlockCosts(masked_ms=(1, 1, 1, 1), full_ms=(5, 5, 5, 5), load_ms=(3, 9, 3, 0), load_bytes=(1, 1, 1, 0))
    # Clocks (loader, compute): (3, 4); by the record (12, 13), in full (3, 9); (6, 10); on the device (6, 11).
    assert greedy(costs) == (False, True, False, False)
    assert greedy(costs, LoaderState(busy_ms=2)) == (True, True, False, False)


def test_greedy_takes_the_record_where_both_end_together() -> None:
    assert greedy(equal_blocks(1, masked_ms=1, full_ms=3, load_ms=2)) == (False,)


def test_always_cached_and_dense() -> None:
    costs = equal_blocks(3, masked_ms=1, full_ms=5, load_ms=100)
    assert always_cached(costs) == (False, False, False)
    assert dense(costs) == (True, True, True)


def test_records_that_never_fit_are_computed_in_full() -> None:
    costs = BlockCosts((1, 1, 1), (5, 5, 5), (0.1, 0.1, 0.1), (10, 30, 10))
    for name in PLAN_POLICIES:
        expected = (True, True, True) if name == "dense" else (True, True, False)
        assert PLAN_POLICIES[name](costs, LoaderState(buffer_bytes=20)) == expected


@settings(deadline=None)
@given(block_costs(), loader_states)
def test_ours_is_no_slower_than_those_that_can_be_run(costs: BlockCosts, loader: LoaderState) -> None:
    ours_ms = step_ms("full_prefix", costs, loader)
    assert ours_ms == pytest.approx(plan_step(costs, loader).step_ms, rel=1e-9)
    assert ours_ms <= step_ms("dense", costs, loader) * (1 + 1e-9)
    assert ours_ms <= step_ms("always_cached", costs, loader) * (1 + 1e-9)


@settings(deadline=None)
@given(block_costs(), loader_states)
def test_every_policy_can_be_played(costs: BlockCosts, loader: LoaderState) -> None:
    for name, policy in PLAN_POLICIES.items():
        is_full = policy(costs, loader)
        assert len(is_full) == len(costs)
        if name != "greedy":
            assert list(is_full) == sorted(is_full, reverse=True)
        assert timeline(costs, loader, is_full).step_ms >= 0


def test_what_others_lose_on_the_grid() -> None:
    """57 equal blocks: the published rule and caching at any price take up to twice as long, full prefixes never."""
    losses: dict[PlanPolicyName, list[float]] = {name: [] for name in PLAN_POLICIES}
    for load, masked in GRID:
        costs = equal_blocks(57, masked, 1.0, load)
        best_ms = step_ms("full_prefix", costs)
        for name, found in losses.items():
            found.append(step_ms(name, costs) / best_ms - 1)
    assert min(min(found) for found in losses.values()) > -1e-9
    assert 0.85 < max(losses["greedy"]) < 0.87
    assert 1.05 < max(losses["always_cached"]) < 1.15
    assert max(losses["dense"]) > 3


def test_ours_is_the_plan() -> None:
    costs = equal_blocks(57, masked_ms=0.3, full_ms=1.0, load_ms=0.7)
    assert sum(full_prefix(costs)) == plan_step(costs).full_prefix
