"""Which replica an edit goes to, by name: ours, and what to compare it with. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from instgenie.balancer.columns import Columns, Floats
from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.fleet import Fleet
from instgenie.balancer.predict import compute_and_load, predict
from instgenie.balancer.rendezvous import weights
from instgenie.balancer.template_map import Warmth

PolicyName = Literal["finish_time", "round_robin", "least_requests", "least_tokens", "compute_load"]

GONE_SECONDS = 30.0  # without a word from a replica, it gets no edits
STALE_SECONDS = 10.0  # as twice a replica's pause between words where there is nothing to say


class Balancer(Protocol):
    """Decides; what is decided is told to the fleet by the caller."""

    def choose(self, demand: EditDemand, fleet: Fleet, now: float) -> str | None:
        """The id of a replica that is ready, and of which was heard of late; None where there is none.

        An edit that requires records goes where they are, if any such replica has them.
        """
        ...


@dataclass(frozen=True, slots=True)
class FinishTime:
    """Ours: where the edit is done first, counting what it delays others by.

    Of replicas that are nearly as good as the best one, it is that which the template's key prefers: so templates find
    a home. A home that has more to do than others is not nearly as good any more: a template that is asked for more
    than one replica can do is recorded on others.

    Attributes:
        stretch_weight: of a second by which somebody else is delayed, against one until this edit is done. In
            simulations 1 has edits avoid a busy home and record their templates elsewhere, which costs all of them more
            than it spares the busy ones; with 0 small fleets do worse, as does the mean at loads of a half.
        near: share by which a replica may be worse than the best and is nearly as good.
        stale_seconds: without a word, from which on a replica counts as later: by what it was not heard of longer.
    """

    stretch_weight: float = 0.25
    near: float = 0.05
    stale_seconds: float = STALE_SECONDS
    gone_seconds: float = GONE_SECONDS

    def choose(self, demand: EditDemand, fleet: Fleet, now: float) -> str | None:
        """See `Balancer`."""
        columns = fleet.columns()
        can_take = candidates(fleet, demand, now, self.gone_seconds)
        if not can_take.any():
            return None
        prediction = predict(fleet, demand)
        late = np.maximum(now - columns.heard_at - self.stale_seconds, 0.0)
        scores = np.where(can_take, prediction.finish + self.stretch_weight * prediction.stretch + late, np.inf)
        return _preferred(columns, scores <= scores.min() * (1 + self.near), demand.template)


@dataclass(frozen=True, slots=True)
class Least:
    """Where a number is smallest. Of equal ones any, by the order's id: templates make no difference.

    Attributes:
        number: [R] of the fleet's replicas, for the edit.
    """

    number: Callable[[Fleet, EditDemand], Floats]
    gone_seconds: float = GONE_SECONDS

    def choose(self, demand: EditDemand, fleet: Fleet, now: float) -> str | None:
        """See `Balancer`."""
        columns = fleet.columns()
        can_take = candidates(fleet, demand, now, self.gone_seconds)
        if not can_take.any():
            return None
        numbers = np.where(can_take, self.number(fleet, demand), np.inf)
        return _preferred(columns, numbers == numbers.min(), demand.id)


class RoundRobin:
    """One after the other, by their ids."""

    def __init__(self, gone_seconds: float = GONE_SECONDS) -> None:
        self._gone_seconds = gone_seconds
        self._last = ""

    def choose(self, demand: EditDemand, fleet: Fleet, now: float) -> str | None:
        """See `Balancer`."""
        ids = fleet.columns().ids
        can_take = [ids[row] for row in np.flatnonzero(candidates(fleet, demand, now, self._gone_seconds))]
        if not can_take:
            return None
        self._last = min((replica for replica in can_take if replica > self._last), default=min(can_take))
        return self._last


def least_requests() -> Balancer:
    """Fewest edits that are not over."""
    return Least(lambda fleet, _: fleet.columns().edits)


def least_tokens() -> Balancer:
    """Fewest tokens left to compute, as if all templates were warm."""
    return Least(lambda fleet, _: fleet.columns().tokens)


def compute_load() -> Balancer:
    """The published rule: least computing and loading, as if all templates were in the memory of all machines."""
    return Least(compute_and_load)


POLICIES: Mapping[PolicyName, Callable[[], Balancer]] = MappingProxyType(
    {
        "finish_time": FinishTime,
        "round_robin": RoundRobin,
        "least_requests": least_requests,
        "least_tokens": least_tokens,
        "compute_load": compute_load,
    }
)


def candidates(fleet: Fleet, demand: EditDemand, now: float, gone_seconds: float = GONE_SECONDS) -> NDArray[np.bool_]:
    """[R] whether the edit may go there."""
    columns = fleet.columns()
    can_take: NDArray[np.bool_] = columns.is_ready & (now - columns.heard_at <= gone_seconds)
    if demand.cache == "only":
        has_records = can_take & (fleet.warmths(demand) <= Warmth.OBJECT)
        if has_records.any():
            return has_records
    return can_take


def _preferred(columns: Columns, is_good: NDArray[np.bool_], key: str) -> str:
    """Of the good ones that which the key prefers."""
    rows = np.flatnonzero(is_good)
    return columns.ids[int(rows[np.argmax(weights(key, columns.hashed_ids[rows]))])]
