"""Sends edits to a replica: at their times, or as fast as it takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.batching_load import Arrival
from instgenie.orders import EditOrder, EditOutcome, StepReport

Edit = Callable[[EditOrder, Callable[[StepReport], None]], Awaitable[EditOutcome]]


@dataclass(frozen=True, slots=True)
class Served:
    """An edit that was done, in seconds from the beginning.

    Attributes:
        due: when it came.
    """

    due: float
    done: float
    outcome: EditOutcome

    @property
    def latency(self) -> float:
        """Seconds from its arrival to its file."""
        return self.done - self.due


async def play(edit: Edit, arrivals: Sequence[Arrival]) -> list[Served]:
    """Send edits when they come, whatever still runs; in the order in which they came.

    While nothing runs the clock is set to the next arrival, for the replica does nothing meanwhile.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()

    def now() -> float:
        return loop.time() - started

    async def serve(arrival: Arrival) -> Served:
        outcome = await edit(arrival.order, lambda _: None)
        return Served(arrival.seconds, now(), outcome)

    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[Served]] = []
        for arrival in arrivals:
            running = [task for task in tasks if not task.done()]
            if running and (seconds := arrival.seconds - now()) > 0:
                await asyncio.wait(running, timeout=seconds)
            started -= max(0.0, arrival.seconds - now())  # nothing runs
            tasks.append(group.create_task(serve(arrival)))
    return [task.result() for task in tasks]


async def saturate(edit: Edit, orders: Iterable[EditOrder], in_flight: int) -> float:
    """Keep so many edits with the replica until there are no more; the seconds that all of them took."""
    loop = asyncio.get_running_loop()
    started, waiting = loop.time(), iter(orders)

    async def work() -> None:
        for order in waiting:
            await edit(order, lambda _: None)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    return loop.time() - started
