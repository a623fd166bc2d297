"""What a front end needs to predict an edit's seconds by itself: the replica's seconds per token."""

from __future__ import annotations

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


def seconds_per_token(replica: Replica) -> float:
    """The factor of the replica's `EditCost`, from what it predicts of some order: predictions are proportional."""
    weight = EditCost(1.0).predict(predicted_work(_PROBE, replica.model))
    return replica.predicted_seconds(_PROBE) / weight
