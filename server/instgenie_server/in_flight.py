"""Requests that are being answered, so that a server can stop without cutting any off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class InFlight:
    """Counts requests. Once `drain` is called no new ones are to be let in."""

    def __init__(self) -> None:
        self._count = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def count(self) -> int:
        """Requests that are being answered."""
        return self._count

    @property
    def is_draining(self) -> bool:
        """Whether the server is stopping."""
        return self._draining

    def drain(self) -> None:
        """Let no new requests in."""
        self._draining = True

    async def idle(self) -> None:
        """Wait until none is being answered."""
        await self._idle.wait()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request as long as the block runs."""
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._idle.set()
