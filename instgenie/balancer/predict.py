"""When an edit will be done on each replica, and what that costs those who are there. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from instgenie.balancer.columns import Columns, Floats
from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.fleet import Fleet
from instgenie.balancer.step_costs import planned_seconds
from instgenie.balancer.template_map import Warmth
from instgenie.pipeline.cost import SegmentShape, block_features


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds, by replica, in the order of the fleet's columns.

    Attributes:
        finish: [R] from now until the edit is done, if nobody comes after it.
        stretch: [R] by which it delays the others, all together.
    """

    finish: Floats
    stretch: Floats


@dataclass(frozen=True, slots=True)
class _Own:
    """What the edit adds to a step, by replica: seconds [R].

    Attributes:
        computed: for certain.
        more_in_full: that it takes more with all tokens.
        load: of its records.
        recording: of its template; no load may cost more than that.
        edge: its share of encoding and decoding, which hide no load.
        rows: tokens that it computes.
    """

    computed: Floats
    more_in_full: Floats
    load: Floats
    recording: Floats
    edge: Floats
    rows: NDArray[np.int64]

    def step_seconds(self, others: Floats) -> Floats:
        """A step of a batch, of which all but this edit takes so long."""
        masked = others + self.computed
        planned = planned_seconds(masked, self.more_in_full, self.load)
        return np.minimum(planned, masked + self.recording) + self.edge


def predict(fleet: Fleet, demand: EditDemand) -> Prediction:
    """What becomes of the edit on each replica, whatever its state.

    A replica's edits take one step each at a time, and a step takes its base and what each of them adds. So the time
    until the edit begins is that of so many steps, and of what those ahead of it compute meanwhile; from then on it
    shares its steps with those that are still there.

    The stretch is what a step is longer by, for all that it would share steps with if it began at once: where it has to
    wait first, as many others are there by then. Its loads count there as if its own computation alone hid them. So
    neither part falls when a replica gets more to do.
    """
    columns = fleet.columns()
    own = _own(columns, demand, fleet.warmths(demand))
    steps = float(demand.steps)
    free = np.maximum(columns.free_at - columns.steps[:, None], 0.0)
    width = np.clip(np.rint(own.rows * columns.places / columns.rows), 1, columns.places).astype(np.int64)
    start = free[np.arange(len(width)), width - 1]
    after_start = np.maximum(free - start[:, None], 0.0)
    shared = _sum(columns.place_seconds, np.minimum(after_start, steps))
    until_start = start * columns.base + columns.seconds - _sum(columns.place_seconds, after_start)
    finish = until_start + steps * own.step_seconds(columns.base + shared / steps)
    longer = own.step_seconds(columns.base) - columns.base
    return Prediction(finish, longer * _sum(columns.is_place, np.minimum(free, steps)))


def compute_and_load(fleet: Fleet, demand: EditDemand) -> Floats:
    """[R] seconds of computing masked tokens and of loading from the host tier that are left, with the edit's own."""
    columns = fleet.columns()
    load = columns.loads[:, 0, 0] + columns.loads[:, 0, 1] * demand.step_bytes if demand.step_bytes else 0.0
    own = demand.passes * _segment_seconds(columns, demand.segment) + load
    return columns.published_seconds + demand.steps * own


def _own(columns: Columns, demand: EditDemand, warmths: NDArray[np.int8]) -> _Own:
    shape = demand.segment
    masked = demand.passes * _segment_seconds(columns, shape)
    full = _segment_seconds(columns, shape.in_full())  # of a pass
    recording = demand.lane_steps * full
    more_in_full = demand.passes * full - masked
    load = np.zeros_like(masked)
    if demand.step_bytes:
        tiers = np.clip(warmths - Warmth.HOST, 0, columns.loads.shape[1] - 1)
        step, byte = columns.loads[np.arange(len(tiers)), tiers].T
        is_loaded = (warmths >= Warmth.HOST) & (warmths <= Warmth.OBJECT)
        load = np.where(is_loaded, step + byte * demand.step_bytes, 0.0)
    is_cold, is_dense = warmths == Warmth.COLD, warmths == Warmth.DENSE
    tokens, total_tokens = shape.text_tokens + shape.active_tokens, shape.text_tokens + shape.total_tokens
    return _Own(
        computed=masked + np.where(is_cold, recording, np.where(is_dense, more_in_full, 0.0)),
        more_in_full=np.maximum(more_in_full, 0.0),
        load=load,
        recording=recording,
        edge=columns.edge / demand.steps,
        rows=np.where(is_dense, demand.passes * total_tokens, demand.passes * tokens + is_cold * total_tokens),
    )


def _segment_seconds(columns: Columns, shape: SegmentShape) -> Floats:
    """[R] what a segment adds to a step."""
    rates = columns.full if shape.active_tokens == shape.total_tokens else columns.masked
    seconds: Floats = rates @ np.array(block_features([shape])[1:], np.float64)
    return seconds


def _sum(weights: Floats, values: Floats) -> Floats:
    """[R] the sum of each row's products."""
    seconds: Floats = np.einsum("rb,rb->r", weights, values)
    return seconds
