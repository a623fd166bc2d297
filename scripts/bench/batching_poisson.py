"""Latency and throughput under Poisson arrivals: ours, its variants, and dense edits in static batches.

Each system gets the same edits at the same times. The clock skips what is left of a pause in which nothing runs, so
that low loads take no longer than high ones. Loads are shares of the dense system's capacity, which is measured first,
with more edits waiting than it takes on. Above 1 its queue grows for as long as edits come: latency is over a fixed
number of them, all of which are served.

`dense, one by one` is calculated: edits in turn, each in the time that the dense system took for one at capacity. On
a device that computes a batch no faster than its edits in turn it is the better dense server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.batching_load import (
    Arrival,
    draw_arrivals,
    draw_mask,
    draw_shares,
    draw_templates,
    edit_orders,
    template_pictures,
)
from bench.batching_play import Served, play, saturate
from bench.batching_systems import System, Workplace, systems
from instgenie.orders import EditOrder, EditOutcome, PhaseTimings, StepReport
from instgenie.replica.local_replica import LocalReplica

LOADS = (0.3, 0.6, 0.9, 1.2)
TEMPLATES = 12
ONE_BY_ONE = "dense, one by one"
TARGET_LATENCY, TARGET_THROUGHPUT = 15.0, 4.0
COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#d55e00", "#777777")


@dataclass(frozen=True, slots=True)
class Capacity:
    """A system that is never short of edits.

    Attributes:
        busy: share of the time in which steps ran.
        mean_batch: edits in a step.
        active: tokens that an edit's step computes, of all.
    """

    system: str
    edits_per_second: float
    busy: float
    mean_batch: float
    active: float


@dataclass(frozen=True, slots=True)
class LoadRow:
    """A system at a load; latencies in seconds, from an edit's arrival to its file.

    Attributes:
        load: arrivals per second, of the dense system's capacity.
        edits_per_second: from the first arrival to the last file.
        mean_batch: edits in a step of an edit, itself included.
    """

    system: str
    load: float
    mean: float
    p50: float
    p95: float
    p99: float
    edits_per_second: float
    mean_batch: float


@dataclass(frozen=True, slots=True)
class Ratios:
    """Ours against the dense system: of throughput at capacity, and of mean latency by load, as ours goes into it.

    Attributes:
        latency_one_by_one: against `ONE_BY_ONE`.
    """

    throughput: float
    latency: dict[str, float]
    latency_one_by_one: dict[str, float]


@dataclass(frozen=True, slots=True)
class Poisson:
    """All that was measured."""

    capacities: list[Capacity]
    rows: list[LoadRow]
    ratios: Ratios


async def measure(workplace: Workplace, steps: int, arrivals: int) -> Poisson:
    """Find the capacities of the dense system and of ours, then run all systems at all loads.

    Args:
        steps: of an edit.
        arrivals: edits at each load, and for each capacity.
    """
    rng = np.random.default_rng(0)
    pictures = template_pictures(TEMPLATES)
    masks = [draw_mask(share, rng) for share in draw_shares(arrivals, rng)]
    orders = edit_orders(pictures, draw_templates(arrivals, TEMPLATES, rng), masks, steps)
    unit_times = draw_arrivals(arrivals, rng)
    compared = systems(workplace.checkpoint)
    ours, dense = compared[0], compared[-1]
    rows = []
    async with AsyncExitStack() as stack:
        replicas = {
            system: await stack.enter_async_context(workplace.replica(system, pictures, steps)) for system in compared
        }
        capacities = [await _capacity(system, replicas[system], orders) for system in (dense, ours)]
        rate = capacities[0].edits_per_second
        for load in track(LOADS, "loads", console=Console(stderr=True)):
            times = [seconds / (load * rate) for seconds in unit_times]
            for system, replica in replicas.items():
                sent = [
                    Arrival(at, replace(order, cache=system.cache)) for at, order in zip(times, orders, strict=True)
                ]
                rows.append(load_row(system.name, load, await play(replica.edit, sent)))
            rows.append(_row(ONE_BY_ONE, load, times, one_by_one(times, 1 / rate), 1.0))
    return Poisson(capacities, rows, ratios(capacities, rows))


async def _capacity(system: System, replica: LocalReplica, orders: Sequence[EditOrder]) -> Capacity:
    served: list[PhaseTimings] = []

    async def edit(order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        outcome = await replica.edit(replace(order, cache=system.cache), report)
        served.append(outcome.timings)
        return outcome

    before = await replica.stats()
    seconds = await saturate(edit, orders, in_flight=2 * system.limits.edits)
    after = await replica.stats()
    return Capacity(
        system=system.name,
        edits_per_second=len(served) / seconds,
        busy=(after.busy_seconds - before.busy_seconds) / seconds,
        mean_batch=(after.edit_steps - before.edit_steps) / (after.steps - before.steps),
        active=fmean(timings.tokens_active / timings.tokens_total for timings in served),
    )


def one_by_one(arrivals: Sequence[float], seconds: float) -> list[float]:
    """When edits are done that are served in turn, each in so many seconds."""
    done: list[float] = []
    for arrival in arrivals:
        done.append(max(arrival, done[-1] if done else 0.0) + seconds)
    return done


def load_row(system: str, load: float, served: Sequence[Served]) -> LoadRow:
    """What edits met."""
    due, done = [edit.due for edit in served], [edit.done for edit in served]
    return _row(system, load, due, done, fmean(edit.outcome.timings.batch for edit in served))


def _row(system: str, load: float, due: Sequence[float], done: Sequence[float], mean_batch: float) -> LoadRow:
    latencies = np.subtract(done, due)
    p50, p95, p99 = (float(np.percentile(latencies, share)) for share in (50, 95, 99))
    rate = len(due) / (max(done) - min(due))
    return LoadRow(system, load, float(latencies.mean()), p50, p95, p99, rate, mean_batch)


def ratios(capacities: Sequence[Capacity], rows: Sequence[LoadRow]) -> Ratios:
    """How many times better ours is: the dense capacity comes first, then ours."""
    dense, ours = capacities
    means = {(row.system, row.load): row.mean for row in rows}

    def against(system: str) -> dict[str, float]:
        return {f"{load:g}": means[system, load] / means[ours.system, load] for load in LOADS}

    return Ratios(ours.edits_per_second / dense.edits_per_second, against(dense.system), against(ONE_BY_ONE))


def tables(found: Poisson) -> list[Table]:
    """The figures for people."""
    capacity = Table(title="capacity")
    for column in ("system", "edits/s", "steps run", "mean batch", "tokens computed"):
        capacity.add_column(column, justify="left" if column == "system" else "right")
    for full in found.capacities:
        rate, batch = f"{full.edits_per_second:.2f}", f"{full.mean_batch:.1f}"
        capacity.add_row(full.system, rate, f"{full.busy:.0%}", batch, f"{full.active:.0%}")
    latency = Table(title="Poisson arrivals, latency in s; load is of the dense system's capacity")
    for column in ("load", "system", "mean", "P50", "P95", "P99", "edits/s", "batch"):
        latency.add_column(column, justify="left" if column == "system" else "right")
    for row in found.rows:
        seconds = (f"{value:.2f}" for value in (row.mean, row.p50, row.p95, row.p99))
        latency.add_row(f"{row.load:g}", row.system, *seconds, f"{row.edits_per_second:.2f}", f"{row.mean_batch:.1f}")
    ratio = Table(
        title=f"how many times better ours is; targets: {TARGET_THROUGHPUT:g} and, of mean latency, {TARGET_LATENCY:g}"
    )
    for column in ("than", "throughput", *(f"at {load:g}" for load in LOADS)):
        ratio.add_column(column, justify="left" if column == "than" else "right")
    throughput = f"{found.ratios.throughput:.2f}"
    ratio.add_row(found.capacities[0].system, throughput, *_factors(found.ratios.latency))
    ratio.add_row(ONE_BY_ONE, throughput, *_factors(found.ratios.latency_one_by_one))
    return [capacity, latency, ratio]


def _factors(by_load: Mapping[str, float]) -> list[str]:
    return [f"{factor:.1f}" for factor in by_load.values()]


def plot(rows: Sequence[LoadRow], path: Path) -> None:
    """Mean and P95 latency by load. The same figures make the same file."""
    names = list(dict.fromkeys(row.system for row in rows))
    with mpl.rc_context():
        mpl.rcParams.update({"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.size": 9})
        figure = Figure(figsize=(9, 3.4), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, sharey=True)
        for name, colour in zip(names, COLOURS, strict=True):
            own = [row for row in rows if row.system == name]
            loads, line = [row.load for row in own], ":" if name == ONE_BY_ONE else "-"
            left.plot(loads, [row.mean for row in own], line, marker="o", color=colour, label=name)
            right.plot(loads, [row.p95 for row in own], line, marker="o", color=colour)
        left.set_ylabel("seconds")
        for axis, title in ((left, "mean latency"), (right, "P95 latency")):
            axis.set_title(title)
            axis.set_xlabel("load / dense capacity")
            axis.set_xticks(LOADS)
            axis.set_yscale("log")
            axis.grid(alpha=0.3, which="both")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
        figure.savefig(path, format="svg", metadata={"Date": None})
