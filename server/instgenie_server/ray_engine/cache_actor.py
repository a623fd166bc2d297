"""The cache service of a machine of the cluster."""

from __future__ import annotations

import asyncio
import io
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TextIO, cast

from instgenie_cache.wire.address import Address
from instgenie_server.logs import configure_logging
from instgenie_server.ray_engine.node_memory import bytes_for_records
from instgenie_server.record_cache.store import running_service
from instgenie_server.settings import CacheSettings, LogSettings


class CacheActor:
    """Keeps a cache service running, which ends when the actor does."""

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._stack = AsyncExitStack()
        self._lines: asyncio.Queue[str] = asyncio.Queue(1000)

    async def start(self, cache: CacheSettings, model: Path, replicas: int, log: LogSettings) -> Address | None:
        """Where it is, once it is ready; None where none can be started: the log says why.

        Args:
            replicas: that may come to use it, all with this model.
        """
        stream = _LineStream(asyncio.get_running_loop(), self._lines)
        configure_logging(log, cast(TextIO, stream))
        host_bytes = await asyncio.to_thread(bytes_for_records, cache, model, replicas)
        return await self._stack.enter_async_context(running_service(cache, host_bytes, log.level))

    async def read(self) -> str:
        """The next line of the log, once there is one."""
        return await self._lines.get()

    async def stop(self) -> list[str]:
        """Have the service keep what it holds, and end. What its log says about that."""
        await self._stack.aclose()
        return [self._lines.get_nowait() for _ in range(self._lines.qsize())]


class _LineStream(io.TextIOBase):
    """Passes lines on to a loop from any thread. Of lines that nobody reads, the last are dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str]) -> None:
        self._loop, self._lines = loop, lines

    def write(self, text: str) -> int:
        """A line, with its end."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, text)
        return len(text)

    def _put(self, text: str) -> None:
        if not self._lines.full():
            self._lines.put_nowait(text)
