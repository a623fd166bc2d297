"""How many uploads are read at the same time, of all callers and of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from instgenie_server.api_error import busy


@dataclass(slots=True)
class _Share:
    """What one caller may hold; `users` hold or await some of it."""

    free: asyncio.Semaphore
    users: int = 0


class UploadPermits:
    """At most `total` permits at the same time; one caller gets half of them, so that others still get in.

    A caller that sends slowly holds up its own uploads only. Whoever waits gets in by the order of arrival.
    """

    def __init__(self, total: int) -> None:
        self._free = asyncio.Semaphore(total)
        self._share = max(1, total // 2)
        self._shares: dict[str, _Share] = {}

    def __len__(self) -> int:
        """Number of callers that hold or await a permit."""
        return len(self._shares)

    @asynccontextmanager
    async def hold(self, caller: str, wait_seconds: float) -> AsyncIterator[None]:
        """Hold a permit as long as the block runs.

        Raises:
            ApiError: 429, there was none within `wait_seconds`.
        """
        share = self._shares.setdefault(caller, _Share(asyncio.Semaphore(self._share)))
        share.users += 1
        try:
            async with AsyncExitStack() as held:
                try:
                    async with asyncio.timeout(wait_seconds):
                        await held.enter_async_context(share.free)  # first: those who await it take none of others
                        await held.enter_async_context(self._free)
                except TimeoutError:
                    raise busy("too many uploads are under way", retry_after=1.0, code="too_many_uploads") from None
                yield
        finally:
            share.users -= 1
            if share.users == 0:
                del self._shares[caller]
