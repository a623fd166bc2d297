"""Models whose times can be found by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from instgenie.balancer.step_costs import LoadSeconds, StepCosts, TokenSeconds
from instgenie.sched.limits import BatchLimits
from instgenie.sim.sim_model import SimModel

A_SECOND = TokenSeconds(1.0)


def a_model(*, load: float = 0.0, **changes: Any) -> SimModel:
    """A second a step and one a token, of which the canvas has 16 and a mask's share as many; no halo, no text.

    Args:
        load: seconds of a step's records from the host tier.
    """
    costs = StepCosts(1.0, A_SECOND, A_SECOND, {"host": LoadSeconds(load, 0.0)})
    model = SimModel(
        source="made up",
        costs=costs,
        canvas_tokens=16,
        text_tokens=0,
        halo=0,
        step_bytes=1,
        blocks=4,
        ahead_bytes=100,
        keeps_lane_steps=True,
        limits=BatchLimits(edits=4, rows=1000),
    )
    return replace(model, **changes)
