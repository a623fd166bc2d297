"""Edits whose replicas ended while they ran: one of them may be what ends replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

from instgenie_server.fleet.seat import Seat

MAX_ORDERS = 10_000  # remembered; the longest known go first
SUSPECT_LOSSES = 2

Choose = Callable[[Collection[str]], Seat | None]


class Suspects:
    """Counts by order. Belongs to one event loop.

    When a replica ends, nobody can tell which of its edits was at fault. All of them are begun again, and an edit that
    ends every replica would take along whoever is beside it, attempt after attempt. So edits that have lost two do not
    share a replica: whoever was taken along twice gets its last attempt without the one that did it.
    """

    def __init__(self, max_orders: int = MAX_ORDERS) -> None:
        self._max_orders = max_orders
        self._losses: dict[str, int] = {}
        self._taken: set[str] = set()  # seats that have a suspect
        self._moved = asyncio.Event()

    def lost(self, order_id: str) -> int:
        """Its replica ended while it ran: how often that was by now."""
        losses = self._losses.pop(order_id, 0) + 1
        self._losses[order_id] = losses
        if len(self._losses) > self._max_orders:
            del self._losses[next(iter(self._losses))]
        return losses

    def ended(self, order_id: str) -> None:
        """It has come to an end of its own, and will not be begun again."""
        self._losses.pop(order_id, None)

    def look_again(self) -> None:
        """There may be a seat for those that wait."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    @asynccontextmanager
    async def seat(self, order_id: str, choose: Choose) -> AsyncIterator[Seat]:
        """Where the edit goes, for as long as it is there. A suspect waits while all replicas have one.

        Args:
            choose: of the seats but for those with these ids; None where there is no other one.
        """
        is_suspect = self._losses.get(order_id, 0) >= SUSPECT_LOSSES
        while (seat := choose(self._taken if is_suspect else ())) is None:
            await self._moved.wait()
        if not is_suspect:
            yield seat
            return
        self._taken.add(seat.id)
        try:
            yield seat
        finally:
            self._taken.discard(seat.id)
            self.look_again()
