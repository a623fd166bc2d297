"""Commits of one connection that a flush is to tell of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from instgenie_cache.errors import CacheError
from instgenie_cache.service.served_store import ServedWriter
from instgenie_cache.service.workers import Workers


class UnflushedWriters:
    """Writers that committed and may not be durable yet, so many at most."""

    def __init__(self, workers: Workers, limit: int) -> None:
        self._workers, self._limit = workers, limit
        self._writers: dict[ServedWriter, None] = {}  # in the order of their commits
        self._has_forgotten = False
        self._flushes = 0
        self._flushing = asyncio.Lock()
        self._failed: tuple[int, CacheError] | None = None  # and how many flushes had been asked for when one failed

    def add(self, writer: ServedWriter) -> None:
        """The next `flush` is to tell of this one."""
        if len(self._writers) >= self._limit:
            self._writers = {writer: None for writer in self._writers if not writer.is_durable}
        if len(self._writers) >= self._limit:
            del self._writers[next(iter(self._writers))]
            self._has_forgotten = True
        self._writers[writer] = None

    async def flush(self) -> None:
        """`wait_durable` of everything that was committed since the last flush, told of or not.

        Flushes wait for one another, as each takes a thread. What goes wrong with one is told to all that were asked
        for until then: nobody may take the answer of the first any more.

        Raises:
            CacheError: some of it could not be made durable; no later flush tells of it.
        """
        self._flushes += 1
        number = self._flushes
        async with self._flushing:
            error = await self._flush_now()
            if error is not None:
                self._failed = (self._flushes, error)
            if self._failed is not None and number <= self._failed[0]:
                raise self._failed[1]

    def clear(self) -> None:
        """Nobody is there to be told any more."""
        self._writers.clear()

    async def _flush_now(self) -> CacheError | None:
        """What went wrong."""
        writers = tuple(self._writers)
        has_forgotten, self._has_forgotten = self._has_forgotten, False
        error = await self._workers.run_slow(lambda: _wait_for(writers)) if writers else None
        for writer in writers:
            self._writers.pop(writer, None)
        if error is None and has_forgotten:
            return CacheError(f"more than {self._limit} templates waited for the disk: some of them may not be durable")
        return error


def _wait_for(writers: Sequence[ServedWriter]) -> CacheError | None:
    """Wait until each is durable, whatever becomes of the others: the first error."""
    first: CacheError | None = None
    for writer in writers:
        try:
            writer.wait_durable()
        except CacheError as error:
            first = first or error
    return first
