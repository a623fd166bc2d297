"""Memory outside the arena, for steps that find no room in it, and for blocks of steps that are not in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from instgenie_cache.errors import StoreFullError


class PrivateMemory:
    """Bytes outside the arena, of all connections.

    Whether a step needs any is known once it is loaded. So what is being loaded is counted apart from what is being
    sent, each up to the limit; one step always passes.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.used_bytes = 0
        self.loading_bytes = 0
        self._turn = asyncio.Lock()
        self._loaded = asyncio.Event()

    @asynccontextmanager
    async def loading(self, num_bytes: int) -> AsyncIterator[None]:
        """While a step is being loaded. Waits, in order, while others load too much."""
        async with self._turn:
            while self.loading_bytes and self.loading_bytes + num_bytes > self._limit_bytes:
                self._loaded.clear()
                await self._loaded.wait()
            self.loading_bytes += num_bytes
        try:
            yield
        finally:
            self.loading_bytes -= num_bytes
            self._loaded.set()

    def take(self, num_bytes: int) -> None:
        """Count in what was loaded, and not into the arena.

        Raises:
            StoreFullError: others use too much already.
        """
        if self.used_bytes and self.used_bytes + num_bytes > self._limit_bytes:
            raise StoreFullError(
                f"no room for {num_bytes} bytes that are not in the arena: of {self._limit_bytes} bytes outside it "
                f"{self.used_bytes} are in use"
            )
        self.used_bytes += num_bytes

    def give(self, num_bytes: int) -> None:
        """Count it out."""
        self.used_bytes -= num_bytes
