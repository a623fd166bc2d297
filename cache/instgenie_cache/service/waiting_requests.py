"""Requests that cannot be answered at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from instgenie_cache.errors import CacheError


class WaitingRequests:
    """Tasks of one connection, a bounded number."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()

    def check_room(self) -> None:
        """Before anything is done for a request that will have to wait.

        Raises:
            CacheError: too many do.
        """
        if len(self._tasks) >= self._limit:
            raise CacheError(f"{len(self._tasks)} requests are in progress on this connection, more are not allowed")

    def add(self, work: Coroutine[Any, Any, None]) -> None:
        """Have a request answered later."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Until there are none."""
        while self._tasks:
            await asyncio.wait(self._tasks)
