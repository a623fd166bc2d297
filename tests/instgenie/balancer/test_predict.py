"""Predicted seconds: states with known answers, and against steps played one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.edit_price import EditPrice
from instgenie.balancer.predict import Prediction, predict
from instgenie.balancer.slots import width
from instgenie.balancer.step_costs import StepCosts, TokenSeconds
from instgenie.balancer.template_map import Warmth
from instgenie.orders import ReplicaStats, ServingTier
from instgenie.sched.limits import BatchLimits
from tests.instgenie.balancer.fleets import (
    COSTS,
    TEMPLATES,
    TIERS,
    Placed,
    Spec,
    a_demand,
    all_costs,
    demands,
    fleet_of,
    placed_edits,
)

Warm = tuple[tuple[str, ServingTier], ...]
WARM: Warm = (("t", "device"),)


def at(spec: Spec, **changes: Any) -> Prediction:
    return predict(fleet_of([spec]), a_demand(**changes))


def busy(*placed: tuple[int, int | None], edits: int = 3) -> Spec:
    """A replica with warm edits of so many steps, so many of which are taken."""
    made = tuple(Placed(a_demand(f"e{number}", steps=steps), taken) for number, (steps, taken) in enumerate(placed))
    return Spec("r", "m", edits=made, warm=WARM, limits=BatchLimits(edits=edits, rows=1000))


@pytest.mark.parametrize(
    ("tier", "step_seconds"),
    [
        ("device", 1 + 1),
        ("host", 1 + 1),
        ("disk", 2 + 9 * 6 / (8 + 9)),  # the load takes 8, of which compute hides 2; in full a step takes 9 more
        ("object", 2 + 9 * 78 / (80 + 9)),
        (None, 1 + 1 + 10),
    ],
)
def test_idle_replica_takes_what_the_tier_costs(tier: ServingTier | None, step_seconds: float) -> None:
    prediction = at(Spec("r", "m", warm=(("t", tier),) if tier else ()))
    assert prediction.finish == pytest.approx([4 * step_seconds])
    assert prediction.stretch == [0.0]


def test_records_that_come_slowly_are_no_worse_than_none() -> None:
    # In full both passes compute ten tokens more; a lane is one pass.
    slow, none = (Spec("r", "m", warm=warm) for warm in ((("t", "object"),), ()))
    fleet, demand = fleet_of([slow]), a_demand(passes=2, step_bytes=1000)
    assert predict(fleet, demand).finish == predict(fleet_of([none]), demand).finish == [4 * (1 + 2 + 10)]
    fleet.accept("r", demand)
    assert fleet["r"].backlog().seconds == 4 * (2 + 10)


def test_steps_that_are_extrapolated_are_recorded_all_the_same() -> None:
    """Of six steps four are computed: six of the lane beside them."""
    demand = a_demand(extrapolated=frozenset({3, 5}))
    cold, warm = (fleet_of([Spec("r", "m", warm=warm)]) for warm in ((), WARM))
    assert predict(warm, demand).finish == [4 * (1 + 1)]
    assert predict(cold, demand).finish == [4 * (1 + 1 + 1.5 * 10)]
    cold.accept("r", demand)
    assert cold["r"].backlog().seconds == 4 * (1 + 1.5 * 10)


def test_costs_that_were_learnt_are_those_of_the_next_prediction() -> None:
    fleet = fleet_of([busy((4, 2))])
    assert predict(fleet, a_demand()).finish == [4 * (1 + 1) + 2]
    fleet.learn_costs("r", replace(COSTS, base_seconds=2.0, masked=TokenSeconds(3.0)), 0.0)
    assert predict(fleet, a_demand()).finish == [4 * (2 + 3) + 2 * 3]


def test_edit_that_is_not_there_any_more_records_nothing() -> None:
    fleet = fleet_of([Spec("r", "m", edits=(Placed(a_demand("e"), 1),))])
    fleet.hear("r", ReplicaStats(), 1.0)
    assert list(fleet.warmths(a_demand())) == [Warmth.COLD]


def test_order_without_cache_computes_all_tokens() -> None:
    assert at(busy(), cache="off").finish == [4 * 11]


def test_encoding_and_decoding_take_their_time_once() -> None:
    assert at(replace(busy(), costs=replace(COSTS, edge_seconds=6.0))).finish == pytest.approx([4 * 2 + 6])


def test_steps_are_shared_with_those_who_have_a_place() -> None:
    prediction = at(busy((4, 2), (9, 1)))
    assert prediction.finish == [4 * (1 + 1) + 2 + 4]
    assert prediction.stretch == [2 + 4]


def test_edit_waits_for_a_place_and_for_those_who_wait_already() -> None:
    # Of two places one is free after 2 steps, the other after 4. The edit that waits takes the first one until step 6,
    # the new one the second until step 8.
    prediction = at(busy((4, 2), (4, 0), (4, None), edits=2))
    until_start = 2 * (1 + 2) + 2 * (1 + 2)
    assert prediction.finish == [until_start + 2 * (1 + 2) + 2 * (1 + 1)]
    assert prediction.stretch == [4 + 4]  # as many as share its steps later


def test_loads_are_hidden_behind_the_whole_batch() -> None:
    alone, beside = (
        replace(spec, warm=(("t", "disk"),))
        for spec in (busy(), replace(busy(), edits=(Placed(a_demand("e", cache="off"), 0),)))
    )
    assert at(alone).finish[0] > 4 * 2
    assert at(beside).finish == [4 * (1 + 1 + 10)]


def test_cold_edit_is_as_wide_as_its_lane_makes_it() -> None:
    # Eleven rows of twelve: a cold edit takes all three places, and a warm one beside it has to wait.
    cold = Spec(
        "r", "m", edits=(Placed(a_demand("e", template="x"), 0),), warm=WARM, limits=BatchLimits(edits=3, rows=12)
    )
    assert at(cold).finish == [4 * 12 + 4 * 2]
    assert at(replace(cold, limits=BatchLimits(edits=3, rows=100))).finish == [4 * 13]


def test_template_that_is_being_recorded_is_warm_there_and_dense_beside() -> None:
    fleet = fleet_of([Spec("r0", "m", edits=(Placed(a_demand("e")),)), Spec("r1", "m"), Spec("r2", "other")])
    assert list(fleet.warmths(a_demand())) == [Warmth.HOST, Warmth.DENSE, Warmth.COLD]
    fleet.end("r0", "e", 0.0)
    assert list(fleet.warmths(a_demand())) == [Warmth.COLD] * 3


@dataclass
class Player:
    """An edit of a batch that is played step by step."""

    left: int
    width: int
    seconds: float


def played_seconds(players: list[Player], own: Player, places: int, base_seconds: float) -> float:
    """Until one's own edit is done, which goes behind all others. Those go first that came first."""
    waiting = [player for player in players if player.left] + [own]
    running: list[Player] = []
    seconds = 0.0
    while own.left:
        while waiting and sum(player.width for player in running) + waiting[0].width <= places:
            running.append(waiting.pop(0))
        seconds += base_seconds + sum(player.seconds for player in running)
        for player in running:
            player.left -= 1
        running = [player for player in running if player.left]
    return seconds


@given(st.data(), all_costs, st.builds(BatchLimits, edits=st.integers(1, 4), rows=st.integers(1, 60)))
def test_prediction_is_what_comes_when_steps_are_played(
    data: st.DataObject, costs: StepCosts, limits: BatchLimits
) -> None:
    edits, demand = data.draw(placed_edits("r", max_size=8)), data.draw(demands("new"))

    def player(demand: EditDemand, taken: int) -> Player:
        price = EditPrice.of(demand, Warmth.DENSE if demand.cache == "off" else Warmth.DEVICE, costs)
        return Player(demand.steps - taken, width(price.rows, limits), price.seconds)

    everything: Warm = tuple((template, "device") for template in TEMPLATES)
    begun, waiting, room = [], [], limits.edits
    for edit in edits:
        if edit.taken is not None and (wide := player(edit.demand, edit.taken).width) <= room:
            begun.append(edit)
            room -= wide
        else:
            waiting.append(replace(edit, taken=None))
    fleet = fleet_of([Spec("r", "m", edits=(*begun, *waiting), warm=everything, limits=limits, costs=costs)])
    players = [player(edit.demand, edit.taken or 0) for edit in (*begun, *waiting)]
    seconds = played_seconds(players, player(demand, 0), limits.edits, costs.base_seconds)
    assert predict(fleet, demand).finish == pytest.approx([seconds])


@given(demands("new"), all_costs, st.sampled_from([*TIERS, None]))
def test_what_an_edit_was_predicted_to_take_is_what_it_then_counts(
    demand: EditDemand, costs: StepCosts, tier: ServingTier | None
) -> None:
    fleet = fleet_of([Spec("r", "m", warm=((demand.template, tier),) if tier else (), costs=costs)])
    predicted = predict(fleet, demand).finish[0]
    fleet.accept("r", demand)
    assert fleet["r"].backlog().seconds + demand.steps * costs.base_seconds == pytest.approx(predicted)
