"""Replicas that are slower at times, and a balancer that is told so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from instgenie.balancer.policies import POLICIES
from instgenie.sim.fleet_shape import FleetShape
from instgenie.sim.pace import STEADY, Pace
from instgenie.sim.sim_edit import SimEdit
from instgenie.sim.simulation import Simulation
from instgenie.sim.trace import SimRequest
from tests.instgenie.sim.models import a_model

PACE = Pace((1.0, 3.5, 8.0), (1.0, 2.0, 0.5))


def played(requests: Sequence[SimRequest], *paces: Pace) -> Sequence[SimEdit]:
    shape = FleetShape(replicas=len(paces), replicas_per_machine=len(paces), host_templates=1)
    simulation = Simulation(a_model(), shape, POLICIES["finish_time"](), 3, paces)
    simulation.fill(requests)
    return simulation.play(requests).edits


def a_request(seconds: float = 0.0) -> SimRequest:
    return SimRequest(seconds, "a", 2 / 16, 3)


@pytest.mark.parametrize(
    ("now", "factor"), [(0.0, 1.0), (1.0, 1.0), (3.4, 1.0), (3.5, 2.0), (7.9, 2.0), (8.0, 0.5), (1e9, 0.5)]
)
def test_each_factor_holds_until_the_next(now: float, factor: float) -> None:
    assert PACE.at(now) == factor


def test_what_is_no_pace_is_refused() -> None:
    for since, factors in (((), ()), ((0.0, 1.0), (1.0,)), ((1.0, 0.0), (1.0, 1.0))):
        with pytest.raises(ValueError, match="are no pace"):
            Pace(since, factors)
    for factor in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="no factors of time"):
            Pace(factors=(factor,))


def test_steps_take_what_the_pace_says_when_they_begin() -> None:
    """Three of 3 s: at 0, at 3, and at 6, when all takes twice as long."""
    assert played([a_request()], PACE)[0].done == 3 + 3 + 6


def test_phases_are_noted() -> None:
    (edit,) = played([a_request(1.0)], STEADY)
    assert (edit.encoded, edit.stepped, edit.done) == (1, 10, 10)


def test_balancer_is_told_who_is_slow() -> None:
    requests = [a_request(20.0 * number) for number in range(40)]
    counts = Counter(edit.replica for edit in played(requests, Pace(factors=(3.0,)), STEADY))
    assert counts["r0"] <= 1  # which the template may prefer while nothing is known
