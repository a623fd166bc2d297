"""Edits on replicas of this machine, for the simulation to be compared with: each one's phases, and what was told.

What the simulation is given of a round is measured by something that is not how long its edits took: costs are those
that replicas told, twice a second; what an edit takes beside the device is that of edits alone, before the round.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean, median

import numpy as np

from bench.batching_load import (
    Arrival,
    draw_arrivals,
    draw_mask,
    draw_shares,
    draw_templates,
    edit_orders,
    template_pictures,
)
from bench.batching_play import play
from instgenie.balancer.step_costs import StepCosts
from instgenie.orders import EditOrder, EditOutcome, StepReport
from instgenie_server.fleet.decision import Decision
from instgenie_server.fleet.fleet_replica import FleetReplica
from instgenie_server.fleet.member import Member

TEMPLATES = 6
ASK_SECONDS = 0.5
ALONE = 8  # edits


@dataclass(frozen=True, slots=True)
class Phases:
    """An edit, measured or simulated, in seconds.

    Attributes:
        replica: where it was sent, from 0.
        before: from its arrival until it was encoded.
        steps: from then until its last step was taken, whatever went between.
        after: from then until its file was there.
    """

    replica: int
    before: float
    steps: float
    after: float

    @property
    def latency(self) -> float:
        """All of it."""
        return self.before + self.steps + self.after


@dataclass(frozen=True, slots=True)
class Side:
    """Edits of a round.

    Attributes:
        edits: in the order in which they came.
        step_seconds: of a step, on average.
        batch: edits in it.
        busy: seconds that replicas computed steps in, over all of them.
    """

    edits: list[Phases]
    step_seconds: float
    batch: float
    busy: float


@dataclass(frozen=True, slots=True)
class Alone:
    """Seconds of an edit that has all replicas to itself.

    Attributes:
        before, after: beside the device.
        encode_share: of what encoding and decoding take of the device, that encoding does.
    """

    before: float
    after: float
    encode_share: float


@dataclass(frozen=True, slots=True)
class Told:
    """What a replica told.

    Attributes:
        seconds: when, on the clock of the edits' arrivals.
        replica: from 0.
    """

    seconds: float
    replica: int
    costs: StepCosts


@dataclass(slots=True)
class _Watched:
    """An edit under way; moments of `time.perf_counter`.

    Attributes:
        sent, done: when it was, and when its file was there.
        encoded, stepped: when its first and its last report came.
    """

    sent: float
    replica: int = 0
    encoded: float = 0.0
    stepped: float = 0.0
    done: float = 0.0

    def phases(self) -> Phases:
        """What it took."""
        return Phases(self.replica, self.encoded - self.sent, self.stepped - self.encoded, self.done - self.stepped)


class Watch:
    """Sends edits through a fleet's balancer, and notes what becomes of them.

    Attributes:
        edits: by the ids of their orders.
        told: what each replica, from 0, said of its costs, at moments of `time.perf_counter`.
    """

    def __init__(self, fleet: FleetReplica, members: Sequence[Member]) -> None:
        self.edits: dict[str, _Watched] = {}
        self.told: list[tuple[float, int, StepCosts]] = []
        self._fleet, self._members = fleet, members
        self._numbers = {member.id: number for number, member in enumerate(members)}
        self._sending: ContextVar[_Watched] = ContextVar("sending")
        fleet.on_decision(self._decided)

    def _decided(self, decision: Decision) -> None:
        self._sending.get().replica = self._numbers[decision.replica]

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """See `Replica`. To be called in a task of its own."""
        edit = self.edits[order.id] = _Watched(time.perf_counter())
        self._sending.set(edit)

        def stepped(step: StepReport) -> None:
            edit.stepped = time.perf_counter()
            edit.encoded = edit.encoded or edit.stepped
            report(step)

        outcome = await self._fleet.edit(order, stepped)
        edit.done = time.perf_counter()
        return outcome

    async def ask(self) -> None:
        """Ask replicas what their steps take, until cancelled."""
        while True:
            await asyncio.gather(*(member.replica.stats() for member in self._members))
            now = time.perf_counter()
            self.told += [(now, number, member.replica.costs) for number, member in enumerate(self._members)]
            await asyncio.sleep(ASK_SECONDS)


@dataclass(frozen=True, slots=True)
class Measured:
    """A round.

    Attributes:
        told: by time.
    """

    side: Side
    told: list[Told]


def draw_orders(count: int, steps: int, seed: int) -> tuple[list[EditOrder], list[float]]:
    """Edits, and when they come: seconds of a process of one a second."""
    rng = np.random.default_rng(seed)
    masks = [draw_mask(share, rng) for share in draw_shares(count, rng)]
    templates = draw_templates(count, TEMPLATES, rng)
    orders = edit_orders(template_pictures(TEMPLATES), templates, masks, steps, cache="auto")
    return [replace(order, id=f"{seed}-{order.id}") for order in orders], draw_arrivals(count, rng)


async def measure(
    fleet: FleetReplica, members: Sequence[Member], orders: Sequence[EditOrder], times: Sequence[float]
) -> Measured:
    """Have edits done that come at these seconds."""
    watch, before = Watch(fleet, members), await fleet.stats()
    asking = asyncio.create_task(watch.ask())
    try:
        await play(watch.edit, [Arrival(at, order) for at, order in zip(times, orders, strict=True)])
    finally:
        asking.cancel()
    after = await fleet.stats()
    steps, busy = after.steps - before.steps, after.busy_seconds - before.busy_seconds
    edits = [watch.edits[order.id] for order in orders]
    side = Side([edit.phases() for edit in edits], busy / steps, (after.edit_steps - before.edit_steps) / steps, busy)
    clock = [(edit.sent, at) for edit, at in zip(edits, times, strict=True)]
    told = [Told(arrival_clock(moment, clock), replica, costs) for moment, replica, costs in watch.told]
    return Measured(side, told)


def arrival_clock(moment: float, clock: Sequence[tuple[float, float]]) -> float:
    """A moment on the clock of arrivals, which is set on where nothing runs: by the last edit that was sent until then.

    Args:
        clock: of each edit in turn, when it was sent, and when it came.
    """
    sent, came = clock[max(0, bisect_right(clock, (moment, inf)) - 1)]
    return came + moment - sent


async def measure_alone(fleet: FleetReplica, members: Sequence[Member], steps: int) -> Alone:
    """Edits one after the other, and what of each was neither steps nor stages: the median."""
    watch = Watch(fleet, members)
    before, after, encode, edge = [], [], [], []
    for order in draw_orders(ALONE, steps, seed=1000)[0]:
        outcome = await asyncio.create_task(watch.edit(order, lambda _: None))
        edit = watch.edits[order.id]
        phases, encode_seconds = edit.phases(), outcome.timings.encode_ms / 1000
        edge_seconds = max(encode_seconds, members[edit.replica].replica.costs.edge_seconds)
        before.append(phases.before - encode_seconds)
        after.append(phases.after - (edge_seconds - encode_seconds))
        encode.append(encode_seconds)
        edge.append(edge_seconds)
    share = min(1.0, fmean(encode) / fmean(edge)) if fmean(edge) else 0.5
    return Alone(max(0.0, median(before)), max(0.0, median(after)), share)
