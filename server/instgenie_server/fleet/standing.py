"""How a member of a fleet stands."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie.balancer.replica_view import ReplicaState
from instgenie.orders import ReplicaStats


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is to tell of a replica.

    Attributes:
        stats: None where it did not tell.
        restarts: how often another process took the place of one that had gone by itself.
        renewals: of one that was ended for it.
    """

    id: str
    state: ReplicaState
    stats: ReplicaStats | None = None
    restarts: int = 0
    renewals: int = 0
