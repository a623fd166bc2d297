"""Edits whose replicas ended while they ran: one of them may be what ends replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MAX_ORDERS = 10_000  # remembered; the longest known go first
SUSPECT_LOSSES = 2


class Suspects:
    """Counts by order. Belongs to one event loop.

    When a replica ends, nobody can tell which of its edits was at fault. All of them are begun again, and an edit that
    ends every replica would take along whoever is beside it, attempt after attempt. So an edit that has lost two waits
    until no other such edit runs: whoever was taken along twice gets its last attempt without the one that did it.
    """

    def __init__(self, max_orders: int = MAX_ORDERS) -> None:
        self._max_orders = max_orders
        self._losses: dict[str, int] = {}
        self._turn = asyncio.Lock()

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

    @asynccontextmanager
    async def turn(self, order_id: str) -> AsyncIterator[None]:
        """For as long as the edit runs; it waits where the edit is a suspect, and another one runs."""
        if self._losses.get(order_id, 0) < SUSPECT_LOSSES:
            yield
            return
        async with self._turn:
            yield
