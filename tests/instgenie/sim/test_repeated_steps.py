"""Batches that come again are played without looking at them anew: it comes to the same as looking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie.balancer.policies import POLICIES
from instgenie.sched.scheduler import Scheduler
from instgenie.sim.fleet_shape import FleetShape
from instgenie.sim.sim_model import SimModel
from instgenie.sim.simulation import Simulation
from instgenie.sim.trace import SimRequest
from tests.instgenie.sim.models import a_model

REQUESTS = st.lists(
    st.builds(
        SimRequest,
        st.floats(0, 300),
        st.sampled_from("abcd"),
        st.sampled_from([1 / 16, 4 / 16, 1.0]),
        st.sampled_from([1, 5, 20]),
    ),
    min_size=1,
    max_size=15,
)


def played(requests: Sequence[SimRequest], model: SimModel, shape: FleetShape) -> list[tuple[Any, ...]]:
    simulation = Simulation(model, shape, POLICIES["finish_time"](), 20)
    simulation.fill(requests)
    run = simulation.play(requests)
    edits = [(edit.replica, edit.served, edit.encoded, edit.stepped, edit.done) for edit in run.edits]
    return [*edits, (run.busy_seconds, run.mean_batch)]


@settings(max_examples=100, deadline=None)
@given(
    requests=REQUESTS,
    load=st.sampled_from([0.0, 0.1, 2.0, 8.0, 100.0]),
    ahead_bytes=st.sampled_from([0, 1, 100]),
    disk=st.sampled_from([0.0, 3.0, 30.0]),
    keeps=st.booleans(),
    device=st.integers(0, 1),
    host=st.integers(1, 4),
    replicas=st.integers(1, 2),
)
def test_same_as_step_by_step(
    requests: list[SimRequest],
    load: float,
    ahead_bytes: int,
    disk: float,
    keeps: bool,
    device: int,
    host: int,
    replicas: int,
) -> None:
    requests = sorted(requests, key=lambda request: request.seconds)
    model = a_model(load=load, ahead_bytes=ahead_bytes, disk_byte_seconds=disk, keeps_lane_steps=keeps)
    shape = FleetShape(
        replicas=replicas, replicas_per_machine=2, host_templates=host, disk_templates=4, device_templates=device
    )
    ours = played(requests, model, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "_settled_batch", lambda *_: None)
        assert played(requests, model, shape) == ours
