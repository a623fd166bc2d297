"""Threads for calls that block."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

Result = TypeVar("Result")


class Workers:
    """Bounded groups of threads, so that short calls do not wait for long ones, nor near tiers for far ones."""

    def __init__(self, quick: int = 8, loading: int = 16, looking: int = 16, slow: int = 4) -> None:
        self._quick = ThreadPoolExecutor(quick, thread_name_prefix="cache-quick")
        self._loading = ThreadPoolExecutor(loading, thread_name_prefix="cache-loading")
        self._looking = ThreadPoolExecutor(looking, thread_name_prefix="cache-looking")
        self._slow = ThreadPoolExecutor(slow, thread_name_prefix="cache-slow")

    async def run(self, call: Callable[[], Result]) -> Result:
        """For what computes, and waits for nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._quick, call)

    async def run_loading(self, call: Callable[[], Result]) -> Result:
        """For what reads a step. Clients do so by a `WorkerShare`."""
        return await asyncio.get_running_loop().run_in_executor(self._loading, call)

    async def run_looking(self, call: Callable[[], Result]) -> Result:
        """For what asks a tier that may be far away whether it has a template. Clients do so by a `WorkerShare`."""
        return await asyncio.get_running_loop().run_in_executor(self._looking, call)

    async def run_slow(self, call: Callable[[], Result]) -> Result:
        """For what waits until the disk has it all, or goes over all that there is."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, call)

    def close(self) -> None:
        """Let running calls end. Blocks."""
        for pool in (self._quick, self._loading, self._looking, self._slow):
            pool.shutdown(wait=True, cancel_futures=True)


class WorkerShare:
    """One client's share of a group of threads: a tier that does not answer holds up those who wait for it."""

    def __init__(self, run: Callable[[Callable[[], Any]], Awaitable[Any]], calls: int) -> None:
        """Args:
        run: of `Workers`, in that group.
        calls: at a time.
        """
        self._run = run
        self._turns = asyncio.Semaphore(calls)

    async def run(
        self, call: Callable[[], Result], bounded_by: AbstractAsyncContextManager[None] | None = None
    ) -> Result:
        """Make a call there.

        Args:
            bounded_by: entered once it is the client's turn, so that what all clients share is not held by one that
                waits for a turn of its own.
        """
        async with self._turns, bounded_by or nullcontext():
            result: Result = await self._run(call)
            return result
