"""Threads for calls that block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeVar

Result = TypeVar("Result")


class Workers:
    """Three bounded groups of threads, so that short calls do not wait for long ones."""

    def __init__(self, quick: int = 8, loading: int = 16, slow: int = 4) -> None:
        self._quick = ThreadPoolExecutor(quick, thread_name_prefix="cache-quick")
        self._loading = ThreadPoolExecutor(loading, thread_name_prefix="cache-loading")
        self._slow = ThreadPoolExecutor(slow, thread_name_prefix="cache-slow")

    async def run(self, call: Callable[[], Result]) -> Result:
        """For what computes, and waits for nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._quick, call)

    async def run_loading(self, call: Callable[[], Result]) -> Result:
        """For what reads a step, or asks a tier that may be far away. Clients do so by their `LoadingShare`."""
        return await asyncio.get_running_loop().run_in_executor(self._loading, call)

    async def run_slow(self, call: Callable[[], Result]) -> Result:
        """For what waits until the disk has it all, or goes over all that there is."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, call)

    def close(self) -> None:
        """Let running calls end. Blocks."""
        for pool in (self._quick, self._loading, self._slow):
            pool.shutdown(wait=True, cancel_futures=True)


class LoadingShare:
    """One client's share of the threads that load: a tier that does not answer holds up those who wait for it."""

    def __init__(self, workers: Workers, calls: int) -> None:
        """Args:
        calls: at a time.
        """
        self._workers = workers
        self._turns = asyncio.Semaphore(calls)

    async def run(
        self, call: Callable[[], Result], bounded_by: AbstractAsyncContextManager[None] | None = None
    ) -> Result:
        """See `Workers.run_loading`.

        Args:
            bounded_by: entered once it is the client's turn, so that what all clients share is not held by one that
                waits for a turn of its own.
        """
        async with self._turns, bounded_by or nullcontext():
            return await self._workers.run_loading(call)
