"""What the validation hands to the simulation."""

from __future__ import annotations

import numpy as np
import pytest

from bench.batching_load import draw_mask, edit_orders, template_pictures
from bench.simulate_validate import Latencies, mean_costs, requests_of, sim_model, simulate
from instgenie.balancer.order_demand import order_demand
from instgenie.balancer.step_costs import LoadSeconds, StepCosts, TokenSeconds
from instgenie.orders import ModelCard
from instgenie.sched.limits import BatchLimits

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


def test_costs_are_averaged() -> None:
    other = StepCosts(3.0, TokenSeconds(2.0, 1.0, 4.0), TokenSeconds(4.0), {}, 1.5)
    mean = mean_costs([COSTS, other])
    assert mean == StepCosts(2.0, TokenSeconds(1.5, 0.5, 2.0), TokenSeconds(3.0), COSTS.loads, 1.0)


def test_simulated_edits_are_those_of_the_balancer() -> None:
    masks = [draw_mask(share, np.random.default_rng(0)) for share in (0.05, 0.3, 0.6)]
    orders = edit_orders(template_pictures(2), [0, 1, 0], masks, 8, cache="auto")
    model = sim_model(CARD, COSTS, BatchLimits())
    requests = requests_of(orders, [0.0, 1.0, 2.0], CARD)
    for order, request in zip(orders, requests, strict=True):
        demand = order_demand(order, CARD)
        assert model.active_tokens(request.mask_ratio) == demand.active_tokens
        assert (request.steps, request.passes, request.template) == (demand.steps, 2, demand.template)
    assert requests[0].template == requests[2].template != requests[1].template


def test_lone_edit_takes_what_its_costs_say() -> None:
    masks = [draw_mask(0.1, np.random.default_rng(0))]
    requests = requests_of(edit_orders(template_pictures(1), [0], masks, 8, cache="auto"), [3.0], CARD)
    model = sim_model(CARD, COSTS, BatchLimits())
    rows = 2 * (16 + model.active_tokens(requests[0].mask_ratio))
    side = simulate(requests, model, 2)
    assert side.latencies == pytest.approx([8 * (1 + rows) + 0.5])
    assert (side.step_seconds, side.batch) == (1 + rows, 1)


def test_latencies() -> None:
    latencies = Latencies.of([1.0, 2.0, 3.0])
    assert latencies.mean == 2.0
    assert latencies.p95 == pytest.approx(2.9)
