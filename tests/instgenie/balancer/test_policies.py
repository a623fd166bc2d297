"""Where edits go, by policy: states with known answers, and what holds in all of them."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import count
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.fleet import Fleet
from instgenie.balancer.policies import GONE_SECONDS, POLICIES, FinishTime, PolicyName
from instgenie.balancer.predict import predict
from instgenie.balancer.replica_view import ReplicaProfile
from instgenie.orders import ServingTier
from instgenie.sched.limits import BatchLimits
from tests.instgenie.balancer.fleets import (
    COSTS,
    NOW,
    TIERS,
    Placed,
    Spec,
    a_demand,
    demands,
    fleet_of,
    idle,
    specs,
)

names = st.sampled_from(sorted(POLICIES))
DEVICE: tuple[tuple[str, ServingTier], ...] = (("t", "device"),)


def choice(specs: list[Spec], name: PolicyName = "finish_time", demand: EditDemand | None = None) -> str | None:
    return POLICIES[name]().choose(demand or a_demand(), fleet_of(specs), 0.0)


def work(edit_id: str, **changes: object) -> Placed:
    return Placed(a_demand(edit_id, **{"template": "x", "cache": "off", **changes}))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("least_requests", "few"),
        ("least_tokens", "short"),
        ("compute_load", "short"),
        ("finish_time", "warm"),
        ("round_robin", "few"),
    ],
)
def test_each_policy_goes_by_its_own_number(name: PolicyName, expected: str) -> None:
    made = [
        Spec("few", "m0", edits=(work("a", steps=9),)),
        Spec("short", "m1", edits=(work("b", steps=1), work("c", steps=1))),
        Spec("warm", "m2", edits=(work("d", steps=1), work("e", steps=1), work("f", steps=1)), warm=DEVICE),
    ]
    assert choice(made, name) == expected


def test_published_rule_counts_loads_that_nobody_waits_for_and_no_locality() -> None:
    costs = replace(COSTS, loads={"host": replace(COSTS.loads["disk"], byte=0.5)})
    made = [
        Spec(
            "loads",
            "m0",
            edits=(work("a", template="t", cache="auto", steps=8, step_bytes=10),),
            warm=DEVICE,
            costs=costs,
        ),
        Spec("computes", "m1", edits=(work("b", template="u", active_tokens=5, steps=8, step_bytes=0),), costs=costs),
    ]
    assert choice(made, "compute_load") == "computes"
    assert choice(made) == "loads"


def test_cold_replica_is_taken_once_the_warm_one_has_too_much_to_do() -> None:
    # Recording takes 4 steps of 10 s. Each edit in the batch costs the new one 4 s, and the new one costs it 4 s, of
    # which a quarter counts.
    def made(edits: int) -> list[Spec]:
        there = tuple(work(f"e{number}", cache="auto", template="t") for number in range(edits))
        limits = BatchLimits(edits=12, rows=1200)
        return [Spec("warm", "m0", edits=there, warm=DEVICE, limits=limits), Spec("cold", "m1", limits=limits)]

    assert [choice(made(edits)) for edits in (0, 7, 9)] == ["warm", "warm", "cold"]


def test_delay_to_others_counts_as_much_as_it_weighs() -> None:
    made = [
        Spec("three", "m0", edits=tuple(work(f"a{number}", active_tokens=0, total_tokens=1) for number in range(3))),
        Spec("one", "m1", edits=(work("b", total_tokens=6),)),
    ]
    limits = BatchLimits(edits=4, rows=400)
    fleet = fleet_of([replace(spec, limits=limits, warm=DEVICE) for spec in made])
    assert FinishTime(stretch_weight=0.0, near=0.0).choose(a_demand(), fleet, 0.0) == "three"
    assert FinishTime(stretch_weight=2.0, near=0.0).choose(a_demand(), fleet, 0.0) == "one"


def test_records_on_a_device_are_better_than_those_of_its_machine() -> None:
    costs = replace(COSTS, loads=dict.fromkeys(("host", "disk", "object"), COSTS.loads["disk"]))
    made = [
        Spec(f"r{number}", "m", warm=DEVICE if number == 3 else (("t", "host"),), costs=costs) for number in range(6)
    ]
    assert choice(made) == "r3"


def test_order_that_requires_records_goes_where_they_are() -> None:
    made = [Spec("busy", "m0", edits=tuple(work(f"e{number}") for number in range(9)), warm=DEVICE), *idle(3)]
    for name in POLICIES:
        assert choice(made, name, a_demand(cache="only")) == "busy"
    assert choice([replace(made[0], state="draining"), *made[1:]], demand=a_demand(cache="only")) is not None


def test_template_has_a_home_that_others_do_not_change() -> None:
    made = idle(8)
    homes = {template: choice(made, demand=a_demand(template=template)) for template in map(str, range(200))}
    assert max(Counter(homes.values()).values()) < 3 * 200 / 8
    assert len(set(homes.values())) == 8
    for template, home in homes.items():
        assert home is not None
        without_another = [spec for spec in made if spec.id == home or spec.id != f"r{(int(home[1]) + 1) % 8}"]
        warm = [replace(spec, warm=((template, "host"),)) for spec in made]
        for fleet in (without_another, warm):
            assert choice(fleet, demand=a_demand(template=template)) == home


def test_template_stays_at_home_where_there_is_little_to_do() -> None:
    fleet, balancer, now = fleet_of(idle(8)), POLICIES["finish_time"](), 0.0
    seen = set()
    for number in range(20):
        demand = a_demand(str(number))
        replica = balancer.choose(demand, fleet, now)
        assert replica is not None
        fleet.accept(replica, demand)
        fleet.warmed(replica, demand.template, "host")
        fleet.end(replica, demand.id, now)
        seen.add(replica)
    assert len(seen) == 1


def test_nearly_as_good_is_good_enough_for_a_home() -> None:
    made = [Spec("a", "m0"), Spec("b", "m1", edits=(work("e", total_tokens=1, active_tokens=1, steps=1),))]
    made = [replace(spec, warm=tuple((f"t{number}", "host") for number in range(20))) for spec in made]
    fleet = fleet_of(made)
    long = [a_demand(template=f"t{number}", steps=30) for number in range(20)]
    assert {FinishTime().choose(demand, fleet, 0.0) for demand in long} == {"a", "b"}
    assert {FinishTime(near=0.0).choose(demand, fleet, 0.0) for demand in long} == {"a"}


def test_hot_template_spreads() -> None:
    fleet, balancer = fleet_of(idle(4)), POLICIES["finish_time"]()
    used = []
    for number in range(40):
        demand = a_demand(str(number))
        replica = balancer.choose(demand, fleet, 0.0)
        assert replica is not None
        fleet.accept(replica, demand)
        used.append(replica)
    assert set(used) == {"r0", "r1", "r2", "r3"}
    assert max(Counter(used).values()) <= 15


def test_round_robin_goes_round() -> None:
    fleet, balancer = fleet_of([*idle(3), Spec("r1x", "m", state="draining")]), POLICIES["round_robin"]()
    assert [balancer.choose(a_demand(), fleet, 0.0) for _ in range(5)] == ["r0", "r1", "r2", "r0", "r1"]


def test_equal_replicas_get_equal_shares_where_templates_make_no_difference() -> None:
    fleet, balancer = fleet_of(idle(4)), POLICIES["least_requests"]()
    used = Counter(balancer.choose(a_demand(str(number)), fleet, 0.0) for number in range(400))
    assert min(used.values()) > 60


def test_replica_that_says_nothing_is_trusted_less_and_then_not_at_all() -> None:
    fleet = fleet_of([Spec("silent", "m0", warm=DEVICE), Spec("cold", "m1")])
    balancer = POLICIES["finish_time"]()  # it takes 8 s where it is warm, and 48 s where it is cold
    for now, expected in [(10.0, "silent"), (29.0, "silent"), (GONE_SECONDS + 0.1, None)]:
        assert balancer.choose(a_demand(), fleet, now) == expected
    patient = FinishTime(gone_seconds=1000.0)
    fleet.set_state("cold", "ready", 100.0)
    assert patient.choose(a_demand(), fleet, 40.0) == "silent"
    assert patient.choose(a_demand(), fleet, 60.0) == "cold"


def test_replica_that_is_gone_has_nothing_when_it_comes_back() -> None:
    fleet = fleet_of(
        [Spec("r0", "m", edits=(Placed(a_demand("e", template="u"), 1),), warm=(("t", "device"), ("t", "host")))]
    )
    fleet.set_state("r0", "gone")
    assert len(fleet["r0"]) == 0
    assert POLICIES["finish_time"]().choose(a_demand(), fleet, 0.0) is None
    fleet.join(ReplicaProfile(id="r0", machine="m"), COSTS, 1.0, "ready")
    assert len(fleet["r0"]) == 0
    assert fleet.warmths(a_demand())[0] == 1  # its machine still has it
    assert fleet.warmths(a_demand(template="u"))[0] == 4  # nobody records it any more
    fleet.lose_machine("m")
    assert fleet.warmths(a_demand())[0] == 4


def test_events_of_a_replica_that_left_are_ignored() -> None:
    fleet = fleet_of(idle(1))
    fleet.leave("r0")
    fleet.accept("r0", a_demand())
    fleet.step("r0", "new", 1, 0.0)
    fleet.end("r0", "new", 0.0)
    fleet.warmed("r0", "t", "host")
    fleet.evicted("r0", "t", "host")
    fleet.leave("r0")
    assert len(fleet) == 0
    for make in POLICIES.values():
        assert make().choose(a_demand(), fleet, 0.0) is None


@given(specs(), demands("new"), names)
def test_only_replicas_that_are_ready_and_were_heard_of(made: list[Spec], demand: EditDemand, name: PolicyName) -> None:
    good = {spec.id for spec in made if spec.state == "ready" and NOW - spec.heard_at <= GONE_SECONDS}
    chosen = POLICIES[name]().choose(demand, fleet_of(made), NOW)
    assert chosen in good if good else chosen is None


@given(specs(min_size=2), demands("new"), names, st.randoms(use_true_random=False))
def test_order_of_replicas_makes_no_difference(
    made: list[Spec], demand: EditDemand, name: PolicyName, rng: random.Random
) -> None:
    shuffled = rng.sample(made, len(made))
    first, second = (POLICIES[name]().choose(demand, fleet_of(order), NOW) for order in (made, shuffled))
    assert first == second


@given(specs(min_size=2), demands("new"), names, demands("more", template="x"), st.integers(0, 4))
def test_more_work_makes_a_replica_no_more_attractive(
    made: list[Spec], demand: EditDemand, name: PolicyName, more: EditDemand, number: int
) -> None:
    fleet, replica = fleet_of(made), made[number % len(made)].id
    row = fleet.columns().ids.index(replica)
    before, first = predict(fleet, demand), POLICIES[name]().choose(demand, fleet, NOW)
    fleet.accept(replica, more)
    after = predict(fleet, demand)
    assert after.finish[row] >= before.finish[row] - 1e-9
    assert after.stretch[row] >= before.stretch[row] - 1e-9
    second = POLICIES[name]().choose(demand, fleet, NOW)
    assert second == first or second != replica


@given(specs(min_size=2), demands("new"), st.sampled_from(TIERS), st.integers(0, 4))
def test_warm_template_makes_a_replica_no_less_attractive(
    made: list[Spec], demand: EditDemand, tier: ServingTier, number: int
) -> None:
    made = [replace(spec, costs=replace(spec.costs, masked=replace(spec.costs.full, context=0.0))) for spec in made]
    fleet, replica = fleet_of(made), made[number % len(made)].id
    before, first = predict(fleet, demand), POLICIES["finish_time"]().choose(demand, fleet, NOW)
    fleet.warmed(replica, demand.template, tier)
    after = predict(fleet, demand)
    assert np.all(after.finish <= before.finish + 1e-9)
    assert np.all(after.stretch <= before.stretch + 1e-9)
    if tier == "device" and first == replica:
        assert POLICIES["finish_time"]().choose(demand, fleet, NOW) == replica


def busy_fleet(replicas: int) -> Fleet:
    """Eight replicas a machine, each with eight edits that run and four that wait."""
    fleet, numbers = Fleet(), count()
    for number in range(replicas):
        replica = f"r{number}"
        fleet.join(ReplicaProfile(id=replica, machine=f"m{number // 8}"), COSTS, 0.0, "ready")
        for place in range(12):
            demand = a_demand(str(next(numbers)), template=f"t{number % 50}", steps=20)
            fleet.accept(replica, demand)
            if place < 8:
                fleet.step(replica, demand.id, place, 0.0)
    return fleet


def test_decision_of_512_replicas_takes_a_millisecond_or_so() -> None:
    # Of the processor's time, for others use it too. Between two decisions as many steps are told as an edit takes.
    fleet, balancer = busy_fleet(512), POLICIES["finish_time"]()
    fleet.columns()
    seconds = []
    for number in range(30):
        for touched in range(20):
            replica = f"r{(number * 20 + touched) % 512}"
            first = fleet[replica].demands()[0].id
            fleet.step(replica, first, 1, 0.0)
        began = time.thread_time()
        assert balancer.choose(a_demand(f"new{number}"), fleet, 0.0) is not None
        seconds.append(time.thread_time() - began)
    assert median(seconds) < 0.005


def test_balancer_needs_no_torch() -> None:
    program = "import sys, instgenie.balancer.policies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
