"""Whether the simulation tells what really happens: edits on this machine, and the same ones simulated.

    python scripts/bench/simulate_validate.py [--replicas 2] [--load 0.6] [--edits 60] [--steps 8] [--rounds 2]
        [--out FILE]

Starts replicas of the embedded model and their cache service as `instgenie serve --replicas N` does, and sends edits
through its balancer, without HTTP: Poisson arrivals, masks of the production mix, popularity by Zipf's law, templates
recorded before. The simulation gets the same arrivals, the same demands as the balancer, and the costs that the
replicas told while they edited: the mean of what was asked for twice a second. So it is not told how long any edit
took.

The machine should have nothing else to do: other work makes edits slower while it lasts. Latencies are from an edit's
arrival to its file. Each round is measured and simulated by itself, with what a step took on average, by which costs
that are wrong can be told from queues that are; the last line compares all rounds. It exits with 1 where the mean or
P95 is off by more than 15 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.batching_load import (
    Arrival,
    draw_arrivals,
    draw_mask,
    draw_shares,
    draw_templates,
    edit_orders,
    template_pictures,
    warm_order,
)
from bench.batching_play import play
from bench.environment import environment
from instgenie.balancer.order_demand import order_demand
from instgenie.balancer.policies import POLICIES
from instgenie.balancer.step_costs import StepCosts, TokenSeconds
from instgenie.orders import EditOrder, ModelCard
from instgenie.sched.limits import BatchLimits
from instgenie.sim.figures import capacity_per_second
from instgenie.sim.fleet_shape import FleetShape
from instgenie.sim.sim_model import SimModel
from instgenie.sim.simulation import Simulation
from instgenie.sim.trace import SimRequest
from instgenie_server.fleet.card_limits import limits_of
from instgenie_server.fleet.fleet_replica import FleetReplica
from instgenie_server.fleet.member import Member
from instgenie_server.fleet.own_members import open_own_members
from instgenie_server.settings import CacheSettings, EngineSettings

TEMPLATES = 6
ASK_SECONDS = 0.5
TOLERANCE = 0.15


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds from arrival to file."""

    mean: float
    p95: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latencies:
        return cls(fmean(seconds), float(np.percentile(seconds, 95)))


@dataclass(frozen=True, slots=True)
class Side:
    """Edits, measured or simulated.

    Attributes:
        latencies: in the order of the edits' arrival.
        step_seconds: of a step, on average.
        batch: edits in it.
    """

    latencies: list[float]
    step_seconds: float
    batch: float


@dataclass(frozen=True, slots=True)
class Round:
    """The same edits, and the costs that were told meanwhile."""

    measured: Side
    simulated: Side
    costs: StepCosts


def mean_costs(told: Sequence[StepCosts]) -> StepCosts:
    """The mean of each number; there has to be one at least. Loads are those of the first."""

    def tokens(all_of: Sequence[TokenSeconds]) -> TokenSeconds:
        return TokenSeconds(*(fmean(getattr(one, name) for one in all_of) for name in ("row", "pair", "context")))

    return StepCosts(
        fmean(costs.base_seconds for costs in told),
        tokens([costs.masked for costs in told]),
        tokens([costs.full for costs in told]),
        told[0].loads,
        fmean(costs.edge_seconds for costs in told),
    )


def sim_model(card: ModelCard, costs: StepCosts, limits: BatchLimits) -> SimModel:
    """The replicas, as the simulation has them. Tokens of an edit are told by its share of the canvas, without halo."""
    return SimModel(
        source="asked from replicas",
        costs=costs,
        canvas_tokens=(card.canvas_pixels // card.patch) ** 2,
        text_tokens=card.text_tokens,
        halo=0,
        step_bytes=card.step_bytes,
        blocks=8,
        ahead_bytes=1 << 30,
        keeps_lane_steps=True,
        limits=limits,
    )


def requests_of(orders: Sequence[EditOrder], times: Sequence[float], card: ModelCard) -> list[SimRequest]:
    """What the balancer is asked for."""
    demands = [order_demand(order, card) for order in orders]
    return [
        SimRequest(at, demand.template, demand.active_tokens / demand.total_tokens, demand.steps, demand.passes)
        for at, demand in zip(times, demands, strict=True)
    ]


def simulate(requests: Sequence[SimRequest], model: SimModel, replicas: int) -> Side:
    """What comes of them, by the policy that the fleet has."""
    steps = max(request.steps for request in requests)
    shape = FleetShape(replicas=replicas, replicas_per_machine=replicas, host_templates=len(requests))
    simulation = Simulation(model, shape, POLICIES["finish_time"](), steps)
    simulation.fill(requests)
    played = simulation.play(requests)
    steps = sum(replica.steps for replica in simulation.replicas)
    step_seconds = (sum(played.busy_seconds) - len(requests) * model.costs.edge_seconds) / steps
    return Side([edit.done - edit.arrived for edit in played.edits], step_seconds, played.mean_batch)


async def measure(
    fleet: FleetReplica, members: Sequence[Member], load: float, steps: int, count: int, seed: int
) -> Round:
    """One round.

    Args:
        load: of what the simulation says that the replicas can do, by the costs that they tell when it begins.
    """
    rng = np.random.default_rng(seed)
    masks = [draw_mask(share, rng) for share in draw_shares(count, rng)]
    orders = edit_orders(
        template_pictures(TEMPLATES), draw_templates(count, TEMPLATES, rng), masks, steps, cache="auto"
    )
    orders = [replace(order, id=f"{seed}-{order.id}") for order in orders]
    card = fleet.model
    limits = replace(limits_of(card), lane_rows=1)
    costs = mean_costs([member.replica.costs for member in members])
    unit = requests_of(orders, draw_arrivals(count, rng), card)
    per_second = load * len(members) * capacity_per_second(sim_model(card, costs, limits), unit)
    times = [request.seconds / per_second for request in unit]
    before = await fleet.stats()
    told: list[StepCosts] = []
    asking = asyncio.create_task(_ask(members, told))
    try:
        served = await play(fleet.edit, [Arrival(at, order) for at, order in zip(times, orders, strict=True)])
    finally:
        asking.cancel()
    after = await fleet.stats()
    steps_taken = after.steps - before.steps
    measured = Side(
        [edit.latency for edit in served],
        (after.busy_seconds - before.busy_seconds) / steps_taken,
        (after.edit_steps - before.edit_steps) / steps_taken,
    )
    costs = mean_costs(told)
    return Round(
        measured, simulate(requests_of(orders, times, card), sim_model(card, costs, limits), len(members)), costs
    )


async def _ask(members: Sequence[Member], told: list[StepCosts]) -> None:
    """Note what replicas say that steps take, twice a second."""
    while True:
        told.extend(member.replica.costs for member in members)
        await asyncio.sleep(ASK_SECONDS)


async def validate(replicas: int, load: float, edits: int, steps: int, rounds: int) -> list[Round]:
    """All rounds, on replicas that are warm."""
    with tempfile.TemporaryDirectory() as folder:
        engine, cache = EngineSettings(replicas=replicas), CacheSettings(folder=Path(folder))
        async with open_own_members(engine, cache) as members, FleetReplica(members) as fleet:
            for member in members:
                await member.replica.presence.wait()
            for picture in template_pictures(TEMPLATES):
                await fleet.warm(warm_order(picture, steps), lambda _: None)
            await measure(fleet, members, load, steps, 8 * replicas, seed=0)  # both have run, and know their costs
            return [await measure(fleet, members, load, steps, edits, seed) for seed in range(1, rounds + 1)]


def compare(name: str, measured_seconds: Sequence[float], simulated_seconds: Sequence[float]) -> bool:
    """Print both, and say whether they are close."""
    measured, simulated = Latencies.of(measured_seconds), Latencies.of(simulated_seconds)
    off = (simulated.mean / measured.mean - 1, simulated.p95 / measured.p95 - 1)
    print(
        f"{name:10}{measured.mean:9.2f}{measured.p95:9.2f}{simulated.mean:9.2f}{simulated.p95:9.2f}"
        f"{100 * off[0]:+9.1f}{100 * off[1]:+8.1f} %"
    )
    return max(map(abs, off)) <= TOLERANCE


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--load", type=float, default=0.6)
    parser.add_argument("--edits", type=int, default=60, help="of a round")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args(arguments)
    done = asyncio.run(validate(options.replicas, options.load, options.edits, options.steps, options.rounds))
    print(f"{'':10}{'measured':>18}{'simulated':>18}{'off by':>18}   mean and P95, seconds")
    for number, one in enumerate(done, 1):
        compare(f"round {number}", one.measured.latencies, one.simulated.latencies)
        print(
            f"{'a step':10}{one.measured.step_seconds:9.3f} s of {one.measured.batch:.2f} edits"
            f"{one.simulated.step_seconds:9.3f} s of {one.simulated.batch:.2f} edits"
        )
    measured = [seconds for one in done for seconds in one.measured.latencies]
    is_close = compare("all", measured, [seconds for one in done for seconds in one.simulated.latencies])
    print(f"within {100 * TOLERANCE:.0f} %: {'yes' if is_close else 'no'}")
    if options.out:
        about = {key: value for key, value in vars(options).items() if key != "out"}
        content = {"about": about, "environment": environment(), "results": [asdict(one) for one in done]}
        options.out.write_text(json.dumps(content, indent=1, default=dict) + "\n")
    sys.exit(0 if is_close else 1)


if __name__ == "__main__":
    main()
