"""A fleet whose processes the test starts, kills and moves on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from instgenie.orders import EditOrder, EditOutcome, Pixels
from instgenie_server.fleet.decision import Decision
from instgenie_server.fleet.fleet_replica import FleetReplica, FleetSettings
from instgenie_server.fleet.member import HERE, Member
from instgenie_server.processes.kept_process import Life, RenewError
from instgenie_server.processes.restarts import Restarts
from instgenie_server.replica_process.supervised_replica import SupervisedReplica
from tests.server.manual_clock import ManualClock
from tests.server.replica_process.fake_host import FakeHost, FakeLink
from tests.server.routes.scripted_replica import ScriptedEdit

MASK = bytes(8 * 64) + b"\1" * (8 * 64) + bytes(48 * 64)


def order(order_id: str, template: int = 0) -> EditOrder:
    """An edit of one of the templates."""
    picture = Pixels(64, 64, "RGB", bytes([template]) * (64 * 64 * 3))
    return EditOrder(id=order_id, picture=picture, mask=MASK, prompt="", seed=1)


class Place:
    """Where a member runs."""

    def __init__(self, name: str) -> None:
        self.host = FakeHost()
        self.life: Life | None = None
        self.renewals = 0
        self.can_renew = True
        pauses = Restarts(lambda: 0.0, first_seconds=0.001)
        self.replica = SupervisedReplica(self.host, self.host.connect, pauses, answer_seconds=0.01)
        self.member = Member(name, HERE, self.replica, self._renew)

    @property
    def link(self) -> FakeLink:
        """The newest process there."""
        return self.host.links[-1]

    async def run(self) -> None:
        """Have a process, and wait until it takes orders."""
        self.life = self.host.run()
        await self.replica.presence.wait()

    async def kill(self) -> None:
        """End the process, and wait until that is known."""
        assert self.life is not None
        self.host.end(self.life)
        await until(lambda: not self.replica.presence.is_there)

    async def _renew(self) -> None:
        self.renewals += 1
        assert self.life is not None
        self.life.is_renewed = True
        await self.kill()
        if not self.can_renew:
            raise RenewError("no memory")
        self.life = self.host.run()


class Crew:
    """A fleet and its members, by their ids: 1, 2 ..."""

    def __init__(self, places: Sequence[Place], fleet: FleetReplica, clock: ManualClock) -> None:
        self.places, self.fleet, self.clock = places, fleet, clock
        self.decisions: list[Decision] = []
        fleet.on_decision(self.decisions.append)

    def __getitem__(self, name: int) -> Place:
        return self.places[name - 1]

    def edit(self, order_id: str, template: int = 0, **values: object) -> asyncio.Task[EditOutcome]:
        """Ask for an edit."""
        wanted = replace(order(order_id, template), **values)  # type: ignore[arg-type]
        return asyncio.create_task(self.fleet.edit(wanted, lambda _: None))

    async def begun(self, order_id: str) -> tuple[int, ScriptedEdit]:
        """Where an edit runs, once it does."""

        def found() -> list[tuple[int, ScriptedEdit]]:
            return [
                (name, edit)
                for name, place in enumerate(self.places, start=1)
                for edit in (place.link.running_edits() if place.host.links else ())
                if edit.order.id == order_id
            ]

        await until(lambda: bool(found()))
        return found()[0]


@asynccontextmanager
async def crew(count: int, settings: FleetSettings | None = None, running: bool = True) -> AsyncIterator[Crew]:
    """A fleet of so many, all of them there where `running`."""
    clock = ManualClock()
    async with AsyncExitStack() as stack:
        places = [Place(str(number)) for number in range(1, count + 1)]
        for place in places:
            await stack.enter_async_context(place.replica)
        starts = [asyncio.create_task(place.replica.start()) for place in places]
        fleet = FleetReplica([place.member for place in places], settings or FleetSettings(answer_seconds=0.05), clock)
        stack.push_async_callback(fleet.close)
        if running:
            for place in places:
                await place.run()
        yield Crew(places, fleet, clock)
        for start in starts:
            start.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until the condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
