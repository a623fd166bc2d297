"""Policies of the balancer, compared in a simulation that makes every decision with the code that serves.

    python scripts/bench/simulate.py [--model flux-h200] [--mix katz] [--replicas 8,64,512] [--loads 0.25,0.5,0.8,0.95]
        [--policies finish_time,least_requests,...] [--requests 20000] [--processes 2] [--out FILE] [--quick]

A load is the work that comes, by what the fleet could do: replicas times the edits a second that one of them does when
it is never short of them, all of the mix's templates being in its host tier. Templates that have to be recorded are
work beside that, so that a policy which has many recorded does not keep up at loads below 1: its latencies grow for as
long as edits come, and `!` marks its row.

Every replica begins with what `Simulation.fill` puts there, and the first part of the edits does not count. Each run
gets the same edits at the same times. `--trace` plays the requests of a file instead (instgenie/sim/README.md describes
it), at the loads that are asked for.

What is printed beside latencies: edits done a second; shares of edits by where their records were (device, host, disk),
that were recorded (cold, with those beside them), or computed all tokens (dense: another replica was recording, memory
was full, or the mask is the whole picture); imbalance, the deviation of the replicas' busy time by its mean; and the
processor time of a decision on this machine, `Fleet.columns` included.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import get_args

from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.fleet import Fleet
from instgenie.balancer.policies import POLICIES, Balancer, PolicyName
from instgenie.sim.arrivals import ArrivalsName
from instgenie.sim.figures import Figures, capacity_per_second
from instgenie.sim.fleet_shape import FleetShape
from instgenie.sim.mask_ratios import MixName
from instgenie.sim.sim_model import MODELS, ModelName
from instgenie.sim.simulation import Simulation
from instgenie.sim.trace import SimRequest, at_rate, read_trace
from instgenie.sim.workload import Workload
from instgenie_cache.eviction import PolicyName as EvictionName

LOADS = (0.25, 0.5, 0.8, 0.95)
REPLICAS = (8, 64, 512)
OURS: PolicyName = "finish_time"
TARGET_LOAD = 0.8
TARGETS: dict[PolicyName, float] = {"least_requests": 0.40, "compute_load": 0.20}
TARGET_DECISION_MS = 1.0
WIDTH = 150  # of the table
KEEPS_UP = 0.95  # of what comes is done


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all runs share.

    Attributes:
        host_share, disk_share, device_share: of the templates that each machine, and each device, may keep.
        warm_up: share of the requests that do not count.
        trace: requests of a file, in place of those that `workload` draws.
    """

    model: ModelName
    workload: Workload
    requests: int
    replicas_per_machine: int
    host_share: float
    disk_share: float
    device_share: float
    eviction: EvictionName
    warm_up: float
    seed: int
    trace: Path | None = None

    def load(self, per_second: float) -> list[SimRequest]:
        """The requests at a rate."""
        if self.trace is not None:
            return at_rate(read_trace(self.trace), per_second)
        return self.workload.draw(self.requests, per_second, self.seed)

    def shape(self, replicas: int, templates: int) -> FleetShape:
        """Of a fleet whose traces have so many templates."""
        return FleetShape(
            replicas=replicas,
            replicas_per_machine=self.replicas_per_machine,
            host_templates=round(self.host_share * templates),
            disk_templates=round(self.disk_share * templates),
            device_templates=round(self.device_share * templates),
            eviction=self.eviction,
        )


@dataclass(frozen=True, slots=True)
class Run:
    """One policy on one fleet at one load.

    Attributes:
        decision_ms, decision_p99_ms: of processor time: mean, and what 1 % take longer than.
        wall_seconds: that the simulation took.
    """

    replicas: int
    load: float
    policy: PolicyName
    figures: Figures
    decision_ms: float
    decision_p99_ms: float
    wall_seconds: float

    @property
    def keeps_up(self) -> bool:
        """Whether as many edits are done as come, but for a few."""
        return self.figures.per_second >= KEEPS_UP * self.figures.offered


class TimedBalancer:
    """Another balancer, whose decisions are timed: what they compute, whatever else the machine does."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self.seconds: list[float] = []

    def choose(self, demand: EditDemand, fleet: Fleet, now: float) -> str | None:
        """See `Balancer`."""
        started = time.thread_time()
        chosen = self._balancer.choose(demand, fleet, now)
        self.seconds.append(time.thread_time() - started)
        return chosen


def simulate(setting: Setting, replicas: int, load: float, policy: PolicyName, capacity: float) -> Run:
    """One run.

    Args:
        capacity: edits a second of one replica.
    """
    started = time.perf_counter()
    requests = setting.load(load * capacity * replicas)
    templates = len({request.template for request in requests}) if setting.trace else setting.workload.templates
    balancer = TimedBalancer(POLICIES[policy]())
    shape = setting.shape(replicas, templates)
    simulation = Simulation(MODELS[setting.model](), shape, balancer, max(request.steps for request in requests))
    simulation.fill(requests)
    figures = Figures.of(simulation.play(requests), setting.warm_up)
    decisions = sorted(balancer.seconds)
    return Run(
        replicas,
        load,
        policy,
        figures,
        1000 * fmean(decisions),
        1000 * decisions[int(0.99 * len(decisions))],
        time.perf_counter() - started,
    )


def simulate_all(
    setting: Setting, replicas: Sequence[int], loads: Sequence[float], policies: Sequence[PolicyName], processes: int
) -> tuple[float, list[Run]]:
    """The capacity of a replica, and a run for each combination."""
    capacity = capacity_per_second(MODELS[setting.model](), setting.load(1.0))
    combinations = [(count, load, policy) for count in replicas for load in loads for policy in policies]
    with ProcessPoolExecutor(processes) as pool:
        # The largest fleets first: they take longest.
        begun = {
            combination: pool.submit(simulate, setting, *combination, capacity)
            for combination in sorted(combinations, key=lambda combination: -combination[0])
        }
        console = Console(stderr=True)
        return capacity, [begun[combination].result() for combination in track(combinations, "runs", console=console)]


def table(runs: Sequence[Run], replicas: int) -> Table:
    """All policies on a fleet of that size."""
    shown = Table(title=f"{replicas} replicas: latencies in s, shares in %")
    for column in ("load", "policy", "mean", "P50", "P95", "P99", "edits/s", "batch", "dev", "host", "disk", "cold",
                   "dense", "imbal.", "ms/dec."):  # fmt: skip
        shown.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    of_size = [run for run in runs if run.replicas == replicas]
    for load in sorted({run.load for run in of_size}):
        for run in (run for run in of_size if run.load == load):
            figures, served = run.figures, run.figures.served
            shown.add_row(
                f"{load:g}",
                run.policy + ("" if run.keeps_up else " !"),
                *(f"{seconds:.2f}" for seconds in (figures.mean, figures.p50, figures.p95, figures.p99)),
                f"{figures.per_second:.2f}",
                f"{figures.mean_batch:.1f}",
                *(f"{100 * served[name]:.1f}" for name in ("device", "host", "disk")),
                f"{100 * (served['recorded'] + served['joined']):.1f}",
                f"{100 * (served['dense'] + served['full_mask']):.1f}",
                f"{figures.imbalance:.2f}",
                f"{run.decision_ms:.2f}",
            )
        shown.add_section()
    return shown


def targets(runs: Sequence[Run]) -> list[str]:
    """How far ours is below what it is to beat, at the load of the targets; and the time of its decisions."""
    found = {(run.replicas, run.load, run.policy): run for run in runs}
    lines = []
    for replicas in sorted({run.replicas for run in runs}):
        ours = found.get((replicas, TARGET_LOAD, OURS))
        for policy, share in TARGETS.items():
            other = found.get((replicas, TARGET_LOAD, policy))
            if ours is None or other is None:
                continue
            less = 1 - ours.figures.p95 / other.figures.p95
            verdict = "met" if less >= share else "missed"
            note = "" if other.keeps_up else f"; {policy} does not keep up"
            compared = f"P95 {100 * less:.0f} % below {policy}, target {100 * share:.0f} %"
            lines.append(f"{replicas} replicas at {TARGET_LOAD:g}: {compared}: {verdict}{note}")
        decisions = [run.decision_ms for run in runs if run.replicas == replicas and run.policy == OURS]
        if decisions:
            verdict = "met" if max(decisions) <= TARGET_DECISION_MS else "missed"
            lines.append(
                f"{replicas} replicas: {max(decisions):.2f} ms a decision, target {TARGET_DECISION_MS:g}: {verdict}"
            )
    return lines


def numbers(text: str) -> list[float]:
    """Numbers with commas between them."""
    return [float(part) for part in text.split(",")]


def policy_names(text: str) -> list[PolicyName]:
    """Names of policies with commas between them."""
    known: dict[str, PolicyName] = {name: name for name in POLICIES}
    try:
        return [known[part] for part in text.split(",")]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"there is no policy {error}; there are {', '.join(known)}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="flux-h200")
    parser.add_argument("--mix", choices=get_args(MixName), default="katz")
    parser.add_argument("--arrivals", choices=get_args(ArrivalsName), default="poisson")
    parser.add_argument("--trace", type=Path, help="JSON lines, instead of drawn requests")
    parser.add_argument("--requests", type=int, default=20_000, help="of a run")
    parser.add_argument("--templates", type=int, default=970)
    parser.add_argument("--zipf", type=float, default=1.1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--replicas", type=numbers, default=list(REPLICAS))
    parser.add_argument("--replicas-per-machine", type=int, default=8)
    parser.add_argument("--loads", type=numbers, default=list(LOADS))
    parser.add_argument("--policies", type=policy_names, default=list(POLICIES))
    parser.add_argument("--host-share", type=float, default=0.1, help="of the templates, that a machine's memory keeps")
    parser.add_argument("--disk-share", type=float, default=0.0, help="that its disk keeps")
    parser.add_argument("--device-share", type=float, default=0.001, help="that a device keeps")
    parser.add_argument("--eviction", choices=get_args(EvictionName), default="gdsf")
    parser.add_argument("--warm-up", type=float, default=0.3, help="share of the requests that do not count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args(arguments)
    if options.quick:
        options.requests, options.replicas, options.loads, options.templates = 200, [4], [0.5, 0.8], 50
    model = MODELS[options.model]()
    setting = Setting(
        model=options.model,
        workload=Workload(
            mix=options.mix,
            templates=options.templates,
            zipf=options.zipf,
            arrivals=options.arrivals,
            steps=options.steps,
            passes=model.passes,
        ),
        requests=options.requests,
        replicas_per_machine=options.replicas_per_machine,
        host_share=options.host_share,
        disk_share=options.disk_share,
        device_share=options.device_share,
        eviction=options.eviction,
        warm_up=options.warm_up,
        seed=options.seed,
        trace=options.trace,
    )
    sizes = [round(count) for count in options.replicas]
    started = time.perf_counter()
    capacity, runs = simulate_all(setting, sizes, options.loads, options.policies, options.processes)
    seconds = time.perf_counter() - started
    console = Console(width=max(WIDTH, Console().width))
    for size in sizes:
        console.print(table(runs, size))
    print(f"{options.model}. {model.source}.")
    print(f"a load of 1 is {capacity:.3g} edits/s a replica; {len(runs)} runs in {seconds:.0f} s")
    for line in targets(runs):
        print(line)
    if options.out:
        from bench.environment import environment  # imports torch

        about = asdict(setting) | {"trace": None if setting.trace is None else str(setting.trace)}
        about |= {"source": model.source, "capacity_per_second": capacity, "wall_seconds": seconds}
        content = {"about": about, "environment": environment(), "results": [asdict(run) for run in runs]}
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
