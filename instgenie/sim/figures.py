"""What a played trace comes to, in figures; and what a replica can do at most, by which loads are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import get_args

import numpy as np

from instgenie.balancer.policies import POLICIES
from instgenie.sim.fleet_shape import FleetShape
from instgenie.sim.sim_edit import Served
from instgenie.sim.sim_model import SimModel
from instgenie.sim.simulation import Played, Simulation
from instgenie.sim.trace import SimRequest

_MOST_FOR_CAPACITY = 1000
_BATCHES_FOR_CAPACITY = 20  # the edits of a batch end together


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the edits that count: those after the warm-up, in the order in which they came.

    Attributes:
        mean, p50, p95, p99: seconds from an edit's arrival to its file.
        per_second: edits done a second while those that count came, whichever they are. Less than `offered`: the fleet
            does not keep up.
        offered: edits that came a second.
        served: share of the edits, by how they were served.
        mean_batch: edits in a step.
        busy: share of the time in which devices worked, over the whole trace.
        imbalance: standard deviation of the replicas' busy time, by its mean.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    per_second: float
    offered: float
    served: dict[Served, float]
    mean_batch: float
    busy: float
    imbalance: float

    @classmethod
    def of(cls, played: Played, warm_up: float = 0.0) -> Figures:
        """Args:
        warm_up: share of the edits that do not count.

        Raises:
            ValueError: there are fewer than two that count.
        """
        edits = played.edits[int(warm_up * len(played.edits)) :]
        if len(edits) < 2:
            raise ValueError(f"{len(edits)} edits are too few to tell anything")
        seconds = np.array([edit.done - edit.arrived for edit in edits])
        p50, p95, p99 = (float(value) for value in np.percentile(seconds, (50, 95, 99)))
        first, last = edits[0].arrived, edits[-1].arrived
        counts = Counter(edit.served for edit in edits)
        busy = np.array(played.busy_seconds)
        return cls(
            mean=float(seconds.mean()),
            p50=p50,
            p95=p95,
            p99=p99,
            per_second=sum(first <= edit.done <= last for edit in played.edits) / max(1e-9, last - first),
            offered=(len(edits) - 1) / max(1e-9, last - first),
            served={name: counts[name] / len(edits) for name in get_args(Served)},
            mean_batch=played.mean_batch,
            busy=float(busy.mean()) / max(1e-9, played.ended),
            imbalance=float(busy.std() / max(1e-9, busy.mean())),
        )


def capacity_per_second(model: SimModel, requests: Sequence[SimRequest]) -> float:
    """Edits a second of one replica that is never short of them, all templates in its host tier and none on its device.

    It is played: the requests come all at once, a thousand of them at most and again and again if they are few, and the
    first and the last tenth of what is done do not count. A load of 1 is this, times the replicas.

    Raises:
        ValueError: there are fewer than ten requests.
    """
    if len(requests) < 10:
        raise ValueError(f"{len(requests)} requests are too few to tell a capacity")
    count = min(_MOST_FOR_CAPACITY, max(len(requests), _BATCHES_FOR_CAPACITY * model.limits.edits))
    at_once = [replace(request, seconds=0.0) for request in islice(cycle(requests), count)]
    templates = len({(request.template, request.steps) for request in at_once})
    shape = FleetShape(replicas=1, host_templates=templates)
    simulation = Simulation(model, shape, POLICIES["round_robin"](), max(request.steps for request in at_once))
    simulation.fill(at_once)
    done = sorted(edit.done for edit in simulation.play(at_once).edits)
    first, last = len(done) // 10, len(done) - 1 - len(done) // 10
    return (last - first) / (done[last] - done[first])
