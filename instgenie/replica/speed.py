"""What front ends need to predict by themselves what an edit takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from instgenie.balancer.step_costs import StepCosts
from instgenie.edit_cost import EditCost
from instgenie.order_work import predicted_work
from instgenie.orders import EditOrder, Pixels, Replica

_SIDE = 8  # pixels of a picture that is quick to look at
_PROBE = EditOrder(
    id="probe",
    picture=Pixels(_SIDE, _SIDE, "RGB", bytes(3 * _SIDE * _SIDE)),
    mask=b"\x01" * (_SIDE * _SIDE),
    prompt="",
    seed=0,
    cache="off",
)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a replica is just now.

    Attributes:
        seconds_per_token: of an edit by itself, for `EditCost`.
        costs: of steps that edits share.

    Raises:
        ValueError: a number of seconds below 0 or not finite.
    """

    seconds_per_token: float
    costs: StepCosts

    def __post_init__(self) -> None:
        if not 0 <= self.seconds_per_token < float("inf"):
            raise ValueError(f"seconds_per_token is not to be {self.seconds_per_token}")


@runtime_checkable
class _HasCosts(Protocol):
    @property
    def costs(self) -> StepCosts:
        """See `LocalReplica`."""
        ...


def speed_of(replica: Replica) -> Speed:
    """By what the replica says of its steps, if it does, and what it predicts of some order."""
    weight = EditCost(1.0).predict(predicted_work(_PROBE, replica.model))
    seconds_per_token = replica.predicted_seconds(_PROBE) / weight  # for predictions are proportional
    if isinstance(replica, _HasCosts):
        return Speed(seconds_per_token, replica.costs)
    return Speed(seconds_per_token, StepCosts.from_edit_cost(EditCost(seconds_per_token)))
