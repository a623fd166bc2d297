"""Processes that the test starts and kills, and the scripted replicas in them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from instgenie.balancer.step_costs import StepCosts
from instgenie.errors import ReplicaError
from instgenie.orders import HeldTemplate, ModelCard, ReplicaStats
from instgenie_server.processes.kept_process import Life
from tests.server.routes.scripted_replica import COSTS, MODEL, ScriptedReplica


class FakeLink(ScriptedReplica):
    """A scripted replica behind a connection that the test cuts."""

    def __init__(self, model: ModelCard = MODEL, costs: StepCosts = COSTS) -> None:
        super().__init__(model=model)
        self._costs = costs
        self.leaving = asyncio.Event()
        self.is_closed = asyncio.Event()
        self.hangs = False  # in questions

    @property
    def costs(self) -> StepCosts:
        return self._costs

    @property
    def closed(self) -> bool:
        return self.is_closed.is_set()

    @property
    def is_draining(self) -> bool:
        return self.leaving.is_set()

    async def wait_leaving(self) -> None:
        await self.leaving.wait()

    async def wait_closed(self) -> str:
        await self.is_closed.wait()
        return "the connection was cut"

    def cut(self) -> None:
        """Lose the connection: whatever runs fails."""
        self.leaving.set()
        self.is_closed.set()
        for call in list(self._running):
            ending = call.outcome if hasattr(call, "outcome") else call.end
            ending.set_exception(ReplicaError("the replica is gone"))

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        await self._answered()
        return await super().held(keys)

    async def pin(self, keys: Iterable[str]) -> int:
        await self._answered()
        keys = set(keys)
        self.pinned |= keys  # those that are not there yet, too
        return len(keys & self.records.keys())

    async def stats(self) -> ReplicaStats:
        await self._answered()
        return await super().stats()

    async def close(self) -> None:
        if not self.closed:
            self.cut()

    async def _answered(self) -> None:
        await asyncio.sleep(0)  # it takes a moment
        if self.hangs:
            await self.is_closed.wait()
            raise ReplicaError("the replica is gone")


class FakeHost:
    """Where a process runs when the test says so."""

    def __init__(self) -> None:
        self.lives: asyncio.Queue[Life] = asyncio.Queue()
        self.links: list[FakeLink] = []
        self.failures = 0
        self.hangs = False  # its replicas do, in questions about templates
        self.drains = False  # they do already when they are connected
        self.given_up: list[Life] = []
        self.model, self.costs = MODEL, COSTS  # of its next replicas
        self.records: dict[str, HeldTemplate] | None = None  # of a cache that outlives them

    async def ready(self) -> Life:
        return await self.lives.get()

    async def connect(self) -> FakeLink:
        if self.failures:
            self.failures -= 1
            raise ReplicaError("nobody listens")
        link = FakeLink(self.model, self.costs)
        link.hangs = self.hangs
        if self.records is not None:
            link.records = self.records
        if self.drains:
            link.leaving.set()
        self.links.append(link)
        return link

    def give_up(self, life: Life) -> None:
        self.given_up.append(life)

    def run(self) -> Life:
        """Have another process."""
        life = Life(len(self.links))
        self.lives.put_nowait(life)
        return life

    def end(self, life: Life) -> None:
        """Kill it."""
        life.reason = "its process ended by signal 9"
        life.ended.set()
