"""What an edit adds to the steps of a replica. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.step_costs import FREE, StepCosts, planned_seconds
from instgenie.balancer.template_map import Warmth
from instgenie_cache import TierName

_TIERS: dict[Warmth, TierName] = {Warmth.HOST: "host", Warmth.DISK: "disk", Warmth.OBJECT: "object"}


@dataclass(frozen=True, slots=True)
class EditPrice:
    """What an edit adds to a step that it takes part in, by itself.

    Attributes:
        seconds: its computation, its lane's, waiting for its records, and its share of encoding and decoding.
        rows: tokens that are computed.
        mask_tokens: of them, those that it would compute were its template warm.
        published_seconds: computation of those, and the load of its records from the host tier, hidden or not.
    """

    seconds: float
    rows: int
    mask_tokens: int
    published_seconds: float

    @classmethod
    def of(cls, demand: EditDemand, warmth: Warmth, costs: StepCosts) -> Self:
        """Of an edit whose template is as warm as that."""
        shape, passes = demand.segment, demand.passes
        tokens, total_tokens = shape.text_tokens + shape.active_tokens, shape.text_tokens + shape.total_tokens
        masked, full = passes * costs.segment_seconds(shape), costs.segment_seconds(shape.in_full())
        recording = demand.lane_steps * full
        seconds, rows = masked, passes * tokens
        if warmth == Warmth.DENSE:
            seconds, rows = passes * full, passes * total_tokens
        elif warmth == Warmth.COLD:
            seconds, rows = masked + recording, passes * tokens + total_tokens
        elif warmth in _TIERS:
            load = costs.loads.get(_TIERS[warmth], FREE).of(demand.step_bytes)
            step = planned_seconds(costs.base_seconds + masked, max(0.0, passes * full - masked), load)
            seconds = min(float(step) - costs.base_seconds, masked + recording)
        published = masked + costs.loads.get("host", FREE).of(demand.step_bytes)
        return cls(seconds + costs.edge_seconds / demand.steps, rows, passes * tokens, published)
