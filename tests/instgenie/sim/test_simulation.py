"""Fleets of one or two replicas whose times are found by hand; and what holds for any fleet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie.balancer.policies import POLICIES, PolicyName
from instgenie.balancer.step_costs import StepCosts, TokenSeconds
from instgenie.sched.limits import BatchLimits
from instgenie.sim.figures import Figures, capacity_per_second
from instgenie.sim.fleet_shape import FleetShape
from instgenie.sim.sim_model import SimModel
from instgenie.sim.simulation import Played, Simulation
from instgenie.sim.trace import SimRequest
from instgenie.sim.workload import Workload
from tests.instgenie.sim.models import a_model

ONE = FleetShape(replicas=1, host_templates=4)


def a_request(seconds: float = 0.0, template: str = "a", tokens: int = 2, steps: int = 3) -> SimRequest:
    return SimRequest(seconds, template, tokens / 16, steps)


def played(
    requests: Sequence[SimRequest],
    model: SimModel | None = None,
    shape: FleetShape = ONE,
    policy: PolicyName = "finish_time",
    warm: Iterable[SimRequest] = (),
) -> Played:
    steps = max(request.steps for request in requests)
    simulation = Simulation(model or a_model(), shape, POLICIES[policy](), steps)
    simulation.fill(list(warm))
    return simulation.play(requests)


def test_warm_edit_takes_its_steps() -> None:
    edit = played([a_request(5.0)], warm=[a_request()]).edits[0]
    assert edit.served == "host"
    assert edit.done == 5 + 3 * (1 + 2)


def test_cold_edit_takes_the_template_with_it() -> None:
    played_ = played([a_request(), a_request(100.0)])
    assert [edit.served for edit in played_.edits] == ["recorded", "host"]
    assert [edit.done for edit in played_.edits] == [3 * (1 + 2 + 16), 100 + 9]


def test_encoding_decoding_and_files_take_their_time() -> None:
    model = a_model()
    model = replace(model, costs=replace(model.costs, edge_seconds=4.0), encode_share=0.75, beside_seconds=(10.0, 20.0))
    played_ = played([a_request()], model, warm=[a_request()])
    assert played_.edits[0].done == 10 + 3 + 9 + 1 + 20
    assert played_.busy_seconds == [13]


def test_edits_share_steps() -> None:
    """The second comes in the first one's first step of 3 s, and takes part from its second one on, of 1 + 2 + 4 s."""
    edits = played([a_request(), a_request(1.0, "b", tokens=4)], warm=[a_request(), a_request(template="b")]).edits
    assert [edit.done for edit in edits] == [3 + 7 + 7, 3 + 7 + 7 + 5]


def test_edit_beside_a_recording_joins_it() -> None:
    """It begins in the second step; the lane keeps steps, so that it reads what is there and is done a step later."""
    edits = played([a_request(), a_request(1.0)]).edits
    assert [edit.served for edit in edits] == ["recorded", "joined"]
    assert [edit.done for edit in edits] == [19 + 21 + 21, 19 + 21 + 21 + 3]


def test_edit_waits_for_a_recording_that_keeps_no_steps() -> None:
    """It is parked until the template is complete, after three steps of 19 s, and reads it then."""
    edits = played([a_request(), a_request(1.0)], a_model(keeps_lane_steps=False)).edits
    assert [edit.done for edit in edits] == [57, 57 + 9]


def test_another_replica_of_the_machine_does_not_record_the_same() -> None:
    shape = FleetShape(replicas=2, replicas_per_machine=2, host_templates=4)
    edits = played([a_request(), a_request(1.0)], shape=shape, policy="round_robin").edits
    assert [edit.served for edit in edits] == ["recorded", "dense"]
    assert edits[1].done == 1 + 3 * (1 + 16)


def test_machines_share_nothing() -> None:
    shape = FleetShape(replicas=2, host_templates=4)
    edits = played([a_request(), a_request(1.0), a_request(200.0)], shape=shape, policy="round_robin").edits
    assert [edit.served for edit in edits] == ["recorded", "recorded", "host"]


def test_whole_mask_is_dense_and_records_nothing() -> None:
    edits = played([a_request(tokens=16), a_request(100.0)]).edits
    assert [edit.served for edit in edits] == ["full_mask", "recorded"]
    assert edits[0].done == 3 * 17


def test_loads_are_waited_for_as_planned() -> None:
    """A step of 3 s whose records take 4: at first 3 of 4 blocks wait; then each step's loads begin in the one before.

    All tokens would take 14 s more, so that no block is computed in full.
    """
    requests = [a_request(steps=4)]
    edit = played(requests, a_model(load=4.0), warm=requests).edits[0]
    first = 4 + 3 / 4  # four loads of a second each, then the last block
    assert edit.served == "host"
    # The loader is idle for 0.75 s of the first step, which is no whole block: so in each step.
    assert edit.done == pytest.approx(4 * first)


def test_loads_that_take_longer_than_all_tokens_are_not_waited_for() -> None:
    requests = [a_request(steps=4)]
    edit = played(requests, a_model(load=1000.0), warm=requests).edits[0]
    assert edit.done == pytest.approx(4 * 17)


def test_device_keeps_what_was_read() -> None:
    shape = replace(ONE, device_templates=1)
    requests = [a_request(), a_request(100.0), a_request(200.0, "b"), a_request(300.0)]
    edits = played(requests, a_model(load=1000.0), shape, warm=requests).edits
    assert [edit.served for edit in edits] == ["host", "device", "host", "host"]
    assert edits[1].done - edits[1].arrived == 9


def test_disk_is_read_into_memory_step_by_step() -> None:
    """One template fits memory, so that `b` puts `a` out of it; it comes back in 5 s a step, which are waited for."""
    model = a_model(disk_byte_seconds=5.0)
    shape = FleetShape(replicas=1, host_templates=1, disk_templates=4, eviction="lru")
    requests = [a_request(), a_request(100.0, "b"), a_request(200.0), a_request(300.0)]
    edits = played(requests, model, shape).edits
    assert [edit.served for edit in edits] == ["recorded", "recorded", "disk", "host"]
    # Each step ends a block, of 3/4 s, after its records' last.
    assert edits[2].done == pytest.approx(200 + 15 + 3 / 4)
    assert edits[3].done == 309


def test_fill_deals_templates_out_and_then_the_popular_ones() -> None:
    """Of four templates two machines keep three each in memory, and all on disk."""
    requests = [a_request(0.0, name) for name in "aaaabbbccd"]
    shape = FleetShape(replicas=4, replicas_per_machine=2, host_templates=3, disk_templates=4)
    simulation = Simulation(a_model(), shape, POLICIES["round_robin"](), 3)
    simulation.fill(requests)
    machines = {replica.machine.name: replica.machine for replica in simulation.replicas}
    in_memory = {name: [t for t in "abcd" if f"{t}/3" in machine.host] for name, machine in machines.items()}
    on_disk = {name: [t for t in "abcd" if f"{t}/3" in machine.disk] for name, machine in machines.items()}
    assert in_memory == {"m0": ["a", "b", "c"], "m1": ["a", "b", "d"]}
    assert on_disk == {"m0": ["a", "b", "c", "d"], "m1": ["a", "b", "c", "d"]}


@pytest.mark.parametrize("policy", list(POLICIES))
def test_every_edit_ends_once_and_the_same_seed_is_the_same_run(policy: PolicyName) -> None:
    workload = Workload(templates=20, steps=3)
    shape = FleetShape(replicas=6, replicas_per_machine=2, host_templates=4, disk_templates=6, device_templates=1)
    model = a_model(load=2.0, disk_byte_seconds=1.0, keeps_lane_steps=False)
    runs = [played(workload.draw(300, 0.2, seed), model, shape, policy) for seed in (1, 1, 2)]
    for run in runs:
        assert len(run.edits) == 300
        assert all(edit.done > edit.arrived and edit.taken == 3 for edit in run.edits)
    first, again, other = ([(edit.replica, edit.served, edit.done) for edit in run.edits] for run in runs)
    assert first == again
    assert first != other


def test_one_edit_at_a_time_is_a_queue_with_constant_service() -> None:
    """M/D/1 at 0.7: the mean wait is rho / (2 (1 - rho)) services."""
    model = replace(a_model(), limits=BatchLimits(edits=1, rows=1000, encode_ahead=1))
    service, load = 9.0, 0.7
    times = Workload(templates=1).draw(5_000, load / service, seed=3)
    requests = [a_request(request.seconds) for request in times]
    edits = played(requests, model, warm=[a_request()]).edits
    mean = sum(edit.done - edit.arrived for edit in edits) / len(edits)
    assert mean == pytest.approx(service * (1 + load / (2 * (1 - load))), rel=0.1)
    assert all(earlier.done <= later.done for earlier, later in pairwise(edits))


def test_capacity_is_that_of_full_batches() -> None:
    """Four edits of two tokens share steps of 1 + 4 x 2 seconds."""
    requests = [a_request(number, steps=3) for number in range(200)]
    assert capacity_per_second(a_model(), requests) == pytest.approx(4 / (3 * 9), rel=0.02)


def test_figures_are_of_what_came_after_the_warm_up() -> None:
    requests = [a_request(0.0), a_request(100.0), a_request(195.0), a_request(200.0, tokens=5), a_request(300.0)]
    figures = Figures.of(played(requests), warm_up=0.6)
    # The third does not count, but for being done at 209: it shares its last step with the fourth's first one.
    assert (figures.mean, figures.p50) == (15.0, 15.0)
    assert figures.served["host"] == 1
    assert figures.offered == 1 / 100
    assert figures.per_second == 2 / 100
    assert figures.mean_batch == pytest.approx(15 / 14)
    assert figures.busy == pytest.approx((57 + 9 + 26 + 9) / 309)
    assert figures.imbalance == 0


@settings(max_examples=25, deadline=None)
@given(
    requests=st.lists(
        st.builds(
            a_request,
            st.floats(0, 50),
            st.sampled_from("abc"),
            st.integers(1, 16),
            st.integers(1, 4),
        ),
        min_size=1,
        max_size=12,
    ),
    keeps=st.booleans(),
    replicas=st.integers(1, 3),
    policy=st.sampled_from(list(POLICIES)),
)
def test_nothing_is_lost_nor_faster_than_alone(
    requests: list[SimRequest], keeps: bool, replicas: int, policy: PolicyName
) -> None:
    requests = sorted(requests, key=lambda request: request.seconds)
    shape = FleetShape(replicas=replicas, replicas_per_machine=2, host_templates=1)
    model = a_model(keeps_lane_steps=keeps)
    for edit in played(requests, model, shape, policy).edits:
        assert edit.taken == edit.demand.steps
        tokens = edit.demand.active_tokens
        assert edit.done - edit.arrived >= edit.demand.steps * (1 + tokens) - 1e-9


def test_costs_of_full_and_masked_segments_differ() -> None:
    model = a_model()
    costs = StepCosts(1.0, TokenSeconds(1.0), TokenSeconds(0.5), model.costs.loads)
    edits = played([a_request(), a_request(100.0, tokens=16)], replace(model, costs=costs)).edits
    assert [astuple(edit.demand)[5] for edit in edits] == [2, 16]
    assert [edit.done - edit.arrived for edit in edits] == [3 * (1 + 2 + 8), 3 * (1 + 8)]
