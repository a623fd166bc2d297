"""What decisions about a fleet are made by, as columns of numbers: arrays over its replicas. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from instgenie.balancer.rendezvous import hash_name
from instgenie.balancer.replica_view import ReplicaView
from instgenie.balancer.slots import Slots
from instgenie.balancer.step_costs import FREE, StepCosts
from instgenie_cache import TierName

Floats = NDArray[np.float64]

_LOADED_FROM: tuple[TierName, ...] = ("host", "disk", "object")
_NEVER = 1e12  # steps until a place is free that there is not


@dataclass(frozen=True, slots=True)
class Columns:
    """What a decision needs of each of R replicas, whose batches have B places at most.

    Attributes:
        ids: of the replicas.
        hashed_ids: [R] for rendezvous.
        is_ready: [R] whether it takes orders.
        heard_at: [R] seconds on the caller's clock.
        base, edge: [R] seconds, as in `StepCosts`.
        masked, full: [R, 3] seconds by row, pair and context token.
        loads: [R, 3 tiers, 2] seconds of a step's load, and of each byte.
        places, rows: [R] limits of the batch.
        steps: [R], as in `ReplicaView`.
        free_at, place_seconds: [R, B], as in `Slots`; a very late step and 0 beyond a replica's places.
        is_place: [R, B] 1 or 0.
        edits, seconds, tokens, published_seconds: [R], as in `Backlog`.
        slots: R, those that `free_at` and `place_seconds` are of: they change less often than the rest.
    """

    ids: tuple[str, ...]
    hashed_ids: NDArray[np.uint64]
    is_ready: NDArray[np.bool_]
    heard_at: Floats
    base: Floats
    edge: Floats
    masked: Floats
    full: Floats
    loads: Floats
    places: NDArray[np.int64]
    rows: NDArray[np.int64]
    steps: Floats
    free_at: Floats
    place_seconds: Floats
    is_place: Floats
    edits: Floats
    seconds: Floats
    tokens: Floats
    published_seconds: Floats
    slots: list[Slots | None]

    @classmethod
    def of(cls, views: list[ReplicaView]) -> Self:
        """Columns for these, whose numbers `write` fills in."""
        count = len(views)
        places = np.array([view.profile.limits.edits for view in views], np.int64)
        most = int(places.max(initial=1))
        is_place = (np.arange(most) < places[:, None]).astype(np.float64)

        def zeros(*shape: int) -> Floats:
            return np.zeros((count, *shape))

        return cls(
            ids=tuple(view.profile.id for view in views),
            hashed_ids=np.array([hash_name(view.profile.id) for view in views], np.uint64),
            is_ready=np.zeros(count, np.bool_),
            heard_at=zeros(),
            base=zeros(),
            edge=zeros(),
            masked=zeros(3),
            full=zeros(3),
            loads=zeros(len(_LOADED_FROM), 2),
            places=places,
            rows=np.array([view.profile.limits.rows for view in views], np.int64),
            steps=zeros(),
            free_at=np.where(is_place > 0, 0.0, _NEVER),
            place_seconds=zeros(most),
            is_place=is_place,
            edits=zeros(),
            seconds=zeros(),
            tokens=zeros(),
            published_seconds=zeros(),
            slots=[None] * count,
        )

    def write(self, row: int, view: ReplicaView) -> None:
        """What has changed as edits come and go."""
        backlog, slots = view.backlog(), view.slots()
        self.is_ready[row] = view.state == "ready"
        self.heard_at[row] = view.heard_at
        self.steps[row] = view.steps
        if slots is not self.slots[row]:
            self.slots[row] = slots
            self.free_at[row, : len(slots.free_at)] = slots.free_at
            self.place_seconds[row, : len(slots.seconds)] = slots.seconds
        self.edits[row] = backlog.edits
        self.seconds[row] = backlog.seconds
        self.tokens[row] = backlog.tokens
        self.published_seconds[row] = backlog.published_seconds

    def write_costs(self, row: int, costs: StepCosts) -> None:
        """What steps and loads take."""
        self.base[row], self.edge[row] = costs.base_seconds, costs.edge_seconds
        self.masked[row] = costs.masked.row, costs.masked.pair, costs.masked.context
        self.full[row] = costs.full.row, costs.full.pair, costs.full.context
        loads = [costs.loads.get(tier, FREE) for tier in _LOADED_FROM]
        self.loads[row] = [(load.step, load.byte) for load in loads]
