"""A fleet's view of a real replica at the other end of a socket: what is believed of its edits is so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from instgenie.balancer.fleet import Fleet
from instgenie.balancer.order_demand import order_demand
from instgenie.balancer.replica_view import ReplicaProfile, ReplicaView
from instgenie.balancer.template_map import Warmth
from instgenie.checkpoint import Checkpoint
from instgenie.orders import EditOrder, StepReport
from instgenie.replica.remote_replica import RemoteReplica
from instgenie.replica.service import ReplicaService
from instgenie.sched.limits import BatchLimits
from instgenie_cache.wire.address import Address
from tests.instgenie.batches import Rider
from tests.instgenie.replica.rig import Rig, a_rig, order_of, run

LIMITS = BatchLimits(edits=2)


class FrontEnd:
    """One that tells its fleet what it does with one replica, `r`."""

    def __init__(self, remote: RemoteReplica) -> None:
        self.fleet, self.remote = Fleet(), remote
        self._loop = asyncio.get_running_loop()
        self.fleet.join(
            ReplicaProfile(id="r", machine="m", limits=LIMITS, usual_steps=remote.model.steps),
            remote.costs,
            self.now,
            "ready",
        )

    @property
    def now(self) -> float:
        return self._loop.time()

    @property
    def view(self) -> ReplicaView:
        return self.fleet["r"]

    async def edit(self, order: EditOrder) -> None:
        demand = order_demand(order, self.remote.model)
        self.fleet.accept("r", demand)

        def report(report: StepReport) -> None:
            self.fleet.step("r", order.id, report.step, self.now)

        try:
            outcome = await self.remote.edit(order, report)
            self.fleet.learn("r", order.id, demand, outcome.timings, self.now)
            self.fleet.learn_costs("r", self.remote.costs, self.now)
        finally:
            self.fleet.end("r", order.id, self.now)

    async def hear(self) -> None:
        self.fleet.hear("r", await self.remote.stats(), self.now)

    def warmth(self, order: EditOrder) -> Warmth:
        return Warmth(int(self.fleet.warmths(order_demand(order, self.remote.model))[0]))


@dataclass(frozen=True)
class Ends:
    """A replica behind a socket, and two front ends of it."""

    rig: Rig
    ours: FrontEnd
    theirs: FrontEnd


@asynccontextmanager
async def connected(checkpoint: Checkpoint, folder: Path) -> AsyncIterator[Ends]:
    """Two of its edits run at a time."""
    async with a_rig(checkpoint, limits=LIMITS) as rig, AsyncExitStack() as stack:
        service = ReplicaService(rig.replica, [Address(path=str(folder / "replica.sock"))])
        await service.start()
        stack.push_async_callback(service.close)
        remotes = []
        for _ in range(2):
            remotes.append(remote := await RemoteReplica.connect(service.addresses[0]))
            stack.push_async_callback(remote.close)
        yield Ends(rig, *map(FrontEnd, remotes))


def test_the_view_follows_edits_from_the_first_to_the_last_step(builtin_kind: Checkpoint, tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(builtin_kind, tmp_path) as ends:
            rig, ours = ends.rig, ends.ours
            orders = [order_of(Rider(picture=n, steps=3 + n), id=f"e{n}") for n in range(4)]
            gate = rig.hold_at(1)
            edits = [asyncio.create_task(ours.edit(order)) for order in orders]
            await gate.reached()
            await ours.hear()
            # Two places: what waits was not taken for somebody else's, and what was sent is not over.
            assert sorted(demand.id for demand in ours.view.demands()) == ["e0", "e1", "e2", "e3"]
            assert len(ours.view) == 4
            gate.open()
            await asyncio.gather(*edits)
            assert len(ours.view) == 0
            assert ours.view.backlog().seconds == 0
            # As many as the longest edit has at least; a step that nobody's end was planned by is not counted.
            stats = await rig.settled()
            assert 6 <= ours.view.steps <= stats.steps
            assert [ours.warmth(order) for order in orders] == [Warmth.HOST] * 4

    run(test)


def test_edits_of_other_front_ends_are_seen_and_go(builtin_kind: Checkpoint, tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(builtin_kind, tmp_path) as ends:
            rig, ours, theirs = ends.rig, ends.ours, ends.theirs
            gate = rig.hold_at(0)
            edit = asyncio.create_task(theirs.edit(order_of(Rider(steps=4), id="theirs")))
            await gate.reached()
            await ours.hear()
            assert (len(ours.view), ours.view.demands()) == (1, [])
            assert ours.view.backlog().seconds > 0
            await theirs.hear()
            assert [demand.id for demand in theirs.view.demands()] == ["theirs"]
            assert len(theirs.view) == 1
            gate.open()
            await edit
            await rig.settled()
            await ours.hear()
            assert len(ours.view) == len(theirs.view) == 0

    run(test)


def test_an_edit_that_is_cancelled_leaves_nothing_behind(builtin_kind: Checkpoint, tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(builtin_kind, tmp_path) as ends:
            rig, ours, order = ends.rig, ends.ours, order_of(Rider(steps=6), id="e")
            gate = rig.hold_at(2)
            edit = asyncio.create_task(ours.edit(order))
            await gate.reached()
            edit.cancel()
            gate.open()
            assert isinstance((await asyncio.gather(edit, return_exceptions=True))[0], asyncio.CancelledError)
            await rig.settled()
            await ours.hear()
            assert len(ours.view) == 0
            assert ours.warmth(order) == Warmth.COLD  # it was giving its template up, and is not believed to record it

    run(test)


def test_a_second_edit_finds_its_template_where_the_fleet_says(builtin_kind: Checkpoint, tmp_path: Path) -> None:
    async def test() -> None:
        async with connected(builtin_kind, tmp_path) as ends:
            rig, ours, order = ends.rig, ends.ours, order_of(Rider(), id="e")
            seen = [ours.warmth(order)]
            for _ in range(2):
                await ours.edit(order)
                seen.append(ours.warmth(order))
            assert seen == [Warmth.COLD, Warmth.HOST, Warmth.HOST]
            assert (await rig.settled()).done == 2

    run(test)
