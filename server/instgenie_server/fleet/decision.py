"""Where a fleet sent an edit."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie.balancer.policies import PolicyName
from instgenie.balancer.template_map import Warmth


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision.

    Attributes:
        warmth: of the edit's template at that replica, as far as is known.
        seconds: that deciding took.
    """

    policy: PolicyName
    replica: str
    warmth: Warmth
    seconds: float
