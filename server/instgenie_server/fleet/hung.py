"""How long a replica may be at one step before it hangs. Pure."""

from __future__ import annotations

from instgenie.balancer.step_costs import StepCosts
from instgenie.pipeline.cost import SegmentShape

HUNG_SECONDS = 120.0  # that a replica may be at one step, whatever was predicted
HUNG_STEPS = 20.0  # predicted steps that one may take


def longest_seconds(costs: StepCosts, rows: int, hung_seconds: float = HUNG_SECONDS) -> float:
    """The longest that a replica may be at a step. One of many tokens on a slow device may take its time.

    Args:
        rows: most tokens of a step: the longest one has as many, each of which attends to all.
    """
    step_seconds = costs.base_seconds + costs.full.of(SegmentShape(0, rows, rows))
    return max(hung_seconds, HUNG_STEPS * step_seconds)
