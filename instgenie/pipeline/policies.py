"""Ways to choose the blocks that run in full, by name: ours, and what to compare it with. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType
from typing import Literal

from instgenie.pipeline.planner import IDLE, BlockCosts, LoaderState, plan_step, prefix_times

PlanPolicyName = Literal["full_prefix", "greedy", "always_cached", "dense"]
PlanPolicy = Callable[[BlockCosts, LoaderState], tuple[bool, ...]]  # of each block: does it run on all tokens?


def full_prefix(costs: BlockCosts, loader: LoaderState = IDLE) -> tuple[bool, ...]:
    """Ours: the fastest full prefix."""
    return _prefix(plan_step(costs, loader).full_prefix, costs)


def always_cached(costs: BlockCosts, loader: LoaderState = IDLE) -> tuple[bool, ...]:
    """Every block by its record, however long it takes to load; in full what comes before one that never fits."""
    return _prefix(_shortest_prefix(costs, loader), costs)


def dense(costs: BlockCosts, _loader: LoaderState = IDLE) -> tuple[bool, ...]:
    """Every block in full."""
    return _prefix(len(costs), costs)


def greedy(costs: BlockCosts, loader: LoaderState = IDLE) -> tuple[bool, ...]:
    """The published rule: each block in turn by its record, if that ends this block no later than computing it in full.

    It knows of no buffers, and may have full blocks after masked ones, which a masked-only flow cannot run.
    """
    shortest = _shortest_prefix(costs, loader)
    compute_ms, loader_ms = 0.0, loader.busy_ms
    choice = []
    for block, load_ms in enumerate(costs.load_ms):
        loaded_ms = loader_ms + load_ms
        ready_ms = max(compute_ms, loaded_ms) if load_ms > 0 else compute_ms
        full_end_ms = compute_ms + costs.full_ms[block]
        masked_end_ms = ready_ms + costs.masked_ms[block]
        choice.append(block < shortest or masked_end_ms > full_end_ms)
        if choice[block]:
            compute_ms = full_end_ms
        else:
            compute_ms, loader_ms = masked_end_ms, loaded_ms
    return tuple(choice)


PLAN_POLICIES: Mapping[PlanPolicyName, PlanPolicy] = MappingProxyType(
    {"full_prefix": full_prefix, "greedy": greedy, "always_cached": always_cached, "dense": dense}
)


def _prefix(length: int, costs: BlockCosts) -> tuple[bool, ...]:
    return (True,) * length + (False,) * (len(costs) - length)


def _shortest_prefix(costs: BlockCosts, loader: LoaderState) -> int:
    """The first one that can be run: all records after it fit into the buffer."""
    return next(length for length, step_ms in enumerate(prefix_times(costs, loader)) if step_ms < inf)
