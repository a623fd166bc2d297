"""Whether the simulation tells what really happens: edits on this machine, and the same ones simulated.

    python scripts/bench/simulate_validate.py [--replicas 2] [--load 0.6] [--edits 60] [--steps 8] [--rounds 2]
        [--dtype auto] [--out FILE]

Starts replicas of the embedded model and their cache service as `instgenie serve --replicas N` does, and sends edits
through its balancer, without HTTP: Poisson arrivals, masks of the production mix, popularity by Zipf's law, templates
recorded before. The simulation gets the same arrivals, the same demands as the balancer, the costs that each replica
told as time went by, and what edits alone take beside the device. So it is not told how long any edit took.

The machine should have nothing else to do: other work makes edits slower while it lasts. Each round is measured and
simulated by itself, with each phase of its edits, and with what steps took, by which costs that are wrong can be told
from queues that are. It exits with 1 where the mean or P95 of all rounds is off by more than 15 %.
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
from typing import Literal, get_args

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.batching_load import template_pictures, warm_order
from bench.environment import environment
from bench.simulate_measured import (
    TEMPLATES,
    Alone,
    Phases,
    Side,
    Told,
    draw_orders,
    measure,
    measure_alone,
)
from instgenie.balancer.order_demand import order_demand
from instgenie.balancer.policies import POLICIES
from instgenie.balancer.step_costs import StepCosts, TokenSeconds
from instgenie.orders import EditOrder, ModelCard
from instgenie.pipeline.cost import SegmentShape
from instgenie.sched.limits import BatchLimits
from instgenie.sim.figures import capacity_per_second
from instgenie.sim.fleet_shape import FleetShape
from instgenie.sim.pace import Pace
from instgenie.sim.sim_model import SimModel
from instgenie.sim.simulation import Simulation
from instgenie.sim.trace import SimRequest
from instgenie_server.fleet.card_limits import limits_of
from instgenie_server.fleet.fleet_replica import FleetReplica
from instgenie_server.fleet.member import Member
from instgenie_server.fleet.own_members import open_own_members
from instgenie_server.settings import CacheSettings, EngineSettings

DType = Literal["auto", "float32", "bfloat16"]

TOLERANCE = 0.15
USUAL_SHARE = 0.2  # of the canvas, that an edit computes by which costs are compared


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds from arrival to file."""

    mean: float
    p95: float

    @classmethod
    def of(cls, edits: Sequence[Phases]) -> Latencies:
        seconds = [edit.latency for edit in edits]
        return cls(fmean(seconds), float(np.percentile(seconds, 95)))


@dataclass(frozen=True, slots=True)
class Round:
    """The same edits, and what the simulation was given.

    Attributes:
        costs: the mean of what all replicas told.
        paces: of each replica, by these.
    """

    measured: Side
    simulated: Side
    requests: list[SimRequest]
    costs: StepCosts
    paces: list[Pace]


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


def paces_of(told: Sequence[Told], mean: StepCosts, card: ModelCard, replicas: int) -> list[Pace]:
    """Of each replica: a usual edit's step by what it told, against the mean. Who told nothing is steady."""
    canvas_tokens = (card.canvas_pixels // card.patch) ** 2
    usual = SegmentShape(card.text_tokens, max(1, round(USUAL_SHARE * canvas_tokens)), canvas_tokens)

    def step(costs: StepCosts) -> float:
        return costs.base_seconds + costs.segment_seconds(usual)

    paces = []
    for replica in range(replicas):
        own = sorted((one.seconds, step(one.costs) / step(mean)) for one in told if one.replica == replica)
        paces.append(Pace(*zip(*own, strict=True)) if own else Pace())
    return paces


def sim_model(card: ModelCard, costs: StepCosts, limits: BatchLimits, alone: Alone) -> SimModel:
    """The replicas, as the simulation has them. Tokens of an edit are told by its share of the canvas, without halo."""
    return SimModel(
        source="asked from replicas",
        costs=costs,
        encode_share=alone.encode_share,
        beside_seconds=(alone.before, alone.after),
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


def simulate(requests: Sequence[SimRequest], model: SimModel, paces: Sequence[Pace]) -> Side:
    """What comes of them, by the policy that the fleet has.

    Args:
        paces: of all replicas.
    """
    replicas = len(paces)
    shape = FleetShape(replicas=replicas, replicas_per_machine=replicas, host_templates=len(requests))
    simulation = Simulation(model, shape, POLICIES["finish_time"](), max(request.steps for request in requests), paces)
    simulation.fill(requests)
    played = simulation.play(requests)
    steps = sum(replica.steps for replica in simulation.replicas)
    busy = sum(played.busy_seconds) - len(requests) * model.costs.edge_seconds
    numbers = {replica.name: number for number, replica in enumerate(simulation.replicas)}
    edits = [
        Phases(
            numbers[edit.replica], edit.encoded - edit.arrived, edit.stepped - edit.encoded, edit.done - edit.stepped
        )
        for edit in played.edits
    ]
    return Side(edits, busy / steps, played.mean_batch, busy)


async def play_round(
    fleet: FleetReplica, members: Sequence[Member], alone: Alone, load: float, steps: int, count: int, seed: int
) -> Round:
    """Edits on the replicas, and simulated.

    Args:
        load: of what the simulation says that the replicas can do, by the costs that they tell when it begins.
    """
    card = fleet.model
    limits = replace(limits_of(card), lane_rows=1)
    orders, unit_times = draw_orders(count, steps, seed)
    costs = mean_costs([member.replica.costs for member in members])
    unit = requests_of(orders, unit_times, card)
    per_second = load * len(members) * capacity_per_second(sim_model(card, costs, limits, alone), unit)
    times = [seconds / per_second for seconds in unit_times]
    measured = await measure(fleet, members, orders, times)
    costs = mean_costs([told.costs for told in measured.told])
    paces = paces_of(measured.told, costs, card, len(members))
    requests = requests_of(orders, times, card)
    simulated = simulate(requests, sim_model(card, costs, limits, alone), paces)
    return Round(measured.side, simulated, requests, costs, paces)


async def validate(
    replicas: int, load: float, edits: int, steps: int, rounds: int, dtype: DType
) -> tuple[Alone, list[Round]]:
    """All rounds, on replicas that are warm."""
    with tempfile.TemporaryDirectory() as folder:
        engine, cache = EngineSettings(replicas=replicas, dtype=dtype), CacheSettings(folder=Path(folder))
        async with open_own_members(engine, cache) as members, FleetReplica(members) as fleet:
            for member in members:
                await member.replica.presence.wait()
            dtypes = {member.replica.model.dtype for member in members}
            if len(dtypes) > 1:  # measured at each start, by what was faster then
                raise SystemExit(f"replicas compute in {' and '.join(dtypes)}, and share no records: name a --dtype")
            for picture in template_pictures(TEMPLATES):
                await fleet.warm(warm_order(picture, steps), lambda _: None)
            await measure(fleet, members, *draw_orders(8 * replicas, steps, seed=0))  # both have run, and know costs
            alone = await measure_alone(fleet, members, steps)
            seeds = range(1, rounds + 1)
            return alone, [await play_round(fleet, members, alone, load, steps, edits, seed) for seed in seeds]


def compare(name: str, measured: Sequence[Phases], simulated: Sequence[Phases]) -> bool:
    """Print both, and say whether they are close."""
    real, played = Latencies.of(measured), Latencies.of(simulated)
    off = (played.mean / real.mean - 1, played.p95 / real.p95 - 1)
    print(
        f"{name:10}{real.mean:9.2f}{real.p95:9.2f}{played.mean:9.2f}{played.p95:9.2f}"
        f"{100 * off[0]:+9.1f}{100 * off[1]:+8.1f} %"
    )
    return max(map(abs, off)) <= TOLERANCE


def describe(side: Side) -> str:
    """Means of a side's phases, and of its steps."""
    before, steps, after = (
        fmean(getattr(edit, phase) for edit in side.edits) for phase in ("before", "steps", "after")
    )
    shares = [
        sum(edit.replica == number for edit in side.edits) for number in range(1 + max(e.replica for e in side.edits))
    ]
    return (
        f"{before:.3f} s until encoded, {steps:.3f} until the last step, {after:.3f} until the file; "
        f"steps of {side.step_seconds:.3f} s and {side.batch:.2f} edits, {side.busy:.1f} s in all; "
        f"{' and '.join(map(str, shares))} edits"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--load", type=float, default=0.6)
    parser.add_argument("--edits", type=int, default=60, help="of a round")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=get_args(DType), default="auto")
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args(arguments)
    about = {key: value for key, value in vars(options).items() if key != "out"}
    alone, rounds = asyncio.run(validate(**about))
    print(f"{'':10}{'measured':>18}{'simulated':>18}{'off by':>18}   mean and P95, seconds")
    for number, one in enumerate(rounds, 1):
        compare(f"round {number}", one.measured.edits, one.simulated.edits)
        for side, name in ((one.measured, "measured"), (one.simulated, "simulated")):
            print(f"  {name:11}{describe(side)}")
    measured = [edit for one in rounds for edit in one.measured.edits]
    is_close = compare("all", measured, [edit for one in rounds for edit in one.simulated.edits])
    print(f"an edit alone: {alone.before:.3f} s beside the device before it, {alone.after:.3f} after it")
    print(f"within {100 * TOLERANCE:.0f} %: {'yes' if is_close else 'no'}")
    if options.out:
        results = {"alone": asdict(alone), "rounds": [asdict(one) for one in rounds]}
        content = {"about": about, "environment": environment(), "results": results}
        options.out.write_text(json.dumps(content, indent=1, default=dict) + "\n")
    sys.exit(0 if is_close else 1)


if __name__ == "__main__":
    main()
