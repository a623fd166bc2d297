"""What the validation hands to the simulation, and what it notes of real edits."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from bench.batching_load import draw_mask, edit_orders, template_pictures
from bench.simulate_measured import Alone, Phases, Side, Told, Watch, arrival_clock
from bench.simulate_validate import Latencies, compare, describe, mean_costs, paces_of, requests_of, sim_model, simulate
from instgenie.balancer.order_demand import order_demand
from instgenie.balancer.step_costs import LoadSeconds, StepCosts, TokenSeconds
from instgenie.balancer.template_map import Warmth
from instgenie.orders import EditOrder, ModelCard, StepReport
from instgenie.sched.limits import BatchLimits
from instgenie.sim.pace import STEADY
from instgenie_server.fleet.decision import Decision
from instgenie_server.fleet.fleet_replica import FleetReplica
from instgenie_server.fleet.member import Member

CARD = ModelCard(
    name="embedded",
    revision="0",
    dtype="float32",
    device="cpu",
    steps=20,
    guidance=3.0,
    distilled=False,
    canvas_pixels=192,
    patch=8,
    text_tokens=16,
    step_bytes=1000,
)
COSTS = StepCosts(1.0, TokenSeconds(1.0), TokenSeconds(2.0), {"host": LoadSeconds(0.0, 0.0)}, 0.5)
AT_ONCE = Alone(0.0, 0.0, 0.5)


def an_edit(latency: float, replica: int = 0) -> Phases:
    return Phases(replica, latency / 4, latency / 2, latency / 4)


def orders_of(shares: Sequence[float], templates: Sequence[int]) -> list[EditOrder]:
    masks = [draw_mask(share, np.random.default_rng(0)) for share in shares]
    return edit_orders(template_pictures(2), templates, masks, 8, cache="auto")


def test_costs_are_averaged() -> None:
    other = StepCosts(3.0, TokenSeconds(2.0, 1.0, 4.0), TokenSeconds(4.0), {}, 1.5)
    mean = mean_costs([COSTS, other])
    assert mean == StepCosts(2.0, TokenSeconds(1.5, 0.5, 2.0), TokenSeconds(3.0), COSTS.loads, 1.0)


def test_paces_are_of_each_replica_by_what_it_told() -> None:
    told = [Told(0.0, 0, COSTS), Told(0.1, 2, COSTS), Told(0.5, 0, COSTS.slower(2.0)), Told(0.6, 2, COSTS.slower(0.5))]
    paces = paces_of(told, COSTS, CARD, replicas=3)
    assert [pace.since for pace in paces] == [(0.0, 0.5), (0.0,), (0.1, 0.6)]
    assert [tuple(pace.factors) for pace in paces] == [(1.0, 2.0), (1.0,), (1.0, 0.5)]


def test_simulated_edits_are_those_of_the_balancer() -> None:
    orders = orders_of((0.05, 0.3, 0.6), [0, 1, 0])
    model = sim_model(CARD, COSTS, BatchLimits(), AT_ONCE)
    requests = requests_of(orders, [0.0, 1.0, 2.0], CARD)
    for order, request in zip(orders, requests, strict=True):
        demand = order_demand(order, CARD)
        assert model.active_tokens(request.mask_ratio) == demand.active_tokens
        assert (request.steps, request.passes, request.template) == (demand.steps, 2, demand.template)
    assert requests[0].template == requests[2].template != requests[1].template


def test_lone_edit_takes_what_its_costs_say() -> None:
    requests = requests_of(orders_of([0.1], [0]), [3.0], CARD)
    model = sim_model(CARD, COSTS, BatchLimits(), Alone(before=10.0, after=20.0, encode_share=0.2))
    rows = 2 * (16 + model.active_tokens(requests[0].mask_ratio))
    side = simulate(requests, model, [STEADY, STEADY])
    (edit,) = side.edits
    assert (edit.before, edit.steps) == pytest.approx((10 + 0.1, 8 * (1 + rows)))
    assert edit.after == pytest.approx(0.4 + 20)
    assert (side.step_seconds, side.batch, side.busy) == pytest.approx((1 + rows, 1, 8 * (1 + rows)))


def test_clock_of_arrivals_goes_by_the_last_edit_that_was_sent() -> None:
    """Nothing ran before the third edit, and the clock was set on by 7 s."""
    clock = [(100.0, 1.0), (102.0, 3.0), (105.0, 13.0)]
    moments = (99.0, 100.5, 102.0, 104.0, 105.0, 106.0)
    assert [arrival_clock(moment, clock) for moment in moments] == [0.0, 1.5, 3.0, 5.0, 13.0, 14.0]


class FakeFleet:
    """Decides as it is told, and reports two steps; `tick` is called before each."""

    def __init__(self, choices: list[str]) -> None:
        self.choices = choices
        self.decided: Callable[[Decision], None] = lambda _: None

    def on_decision(self, decided: Callable[[Decision], None]) -> None:
        self.decided = decided

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> Any:
        self.decided(Decision("finish_time", self.choices.pop(0), Warmth.HOST, 0.0))
        for step in range(3):
            await asyncio.sleep(0)
            report(StepReport(step, 2))
        await asyncio.sleep(0)


class FakeMember:
    def __init__(self, name: str) -> None:
        self.id = name


def test_phases_of_edits_that_run_side_by_side() -> None:
    async def watched() -> Watch:
        fleet = FakeFleet(["b", "a", "b"])
        watch = Watch(cast(FleetReplica, fleet), cast(list[Member], [FakeMember("a"), FakeMember("b")]))
        orders = [replace(order, id=str(number)) for number, order in enumerate(orders_of([0.1] * 3, [0] * 3))]
        async with asyncio.TaskGroup() as group:
            for order in orders:
                group.create_task(watch.edit(order, lambda _: None))
        return watch

    edits = asyncio.run(watched()).edits
    assert [edits[name].replica for name in "012"] == [1, 0, 1]
    for edit in edits.values():
        assert edit.sent < edit.encoded < edit.stepped < edit.done
        assert edit.phases().latency == pytest.approx(edit.done - edit.sent)


def test_latencies() -> None:
    latencies = Latencies.of([an_edit(seconds) for seconds in (1.0, 2.0, 3.0)])
    assert latencies.mean == 2.0
    assert latencies.p95 == pytest.approx(2.9)


@pytest.mark.parametrize(
    ("latency", "is_close"), [(10.0, True), (11.4, True), (8.6, True), (11.6, False), (8.4, False)]
)
def test_sides_are_close_within_15_percent(latency: float, is_close: bool) -> None:
    with redirect_stdout(io.StringIO()):
        assert compare("all", [an_edit(10.0)] * 3, [an_edit(latency)] * 3) == is_close


def test_side_is_described() -> None:
    text = describe(Side([an_edit(4.0), an_edit(2.0, replica=1), an_edit(3.0)], 0.1, 1.5, 9.0))
    assert text.startswith("0.750 s until encoded, 1.500 until the last step, 0.750 until the file; ")
    assert text.endswith("9.0 s in all; 2 and 1 edits")
