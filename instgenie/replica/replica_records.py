"""What callers on an event loop ask of an editor's store: one question after the other, in a thread of their own.

The store may be a service's, which answers over a socket, or not for seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from instgenie.editor import Editor
from instgenie.errors import ReplicaError
from instgenie.orders import HeldTemplate
from instgenie_cache import CacheError

Answer = TypeVar("Answer")


class ReplicaRecords:
    """Templates of an editor by key. What is asked is done in the order of the calls, which belong to one loop."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._asking = ThreadPoolExecutor(1, "records")
        self._is_closed = False
        self._hits: dict[str, int] = {}
        self._pinned: set[str] = set()  # in the thread alone

    async def pin(self, keys: Iterable[str]) -> int:
        """See `Replica`."""
        wanted = set(keys)
        return await self._ask(lambda: self._pin(wanted))

    async def unpin(self, keys: Iterable[str]) -> None:
        """See `Replica`."""
        wanted = set(keys)
        await self._ask(lambda: self._unpin(wanted))

    async def forget(self, keys: Iterable[str]) -> None:
        """See `Replica`.

        Raises:
            ReplicaError: the cache did not drop all of them.
        """
        wanted = set(keys)
        for key in wanted:
            self._hits.pop(key, None)
        failures = await self._ask(lambda: self._forget(wanted))
        if failures:
            raise ReplicaError(f"{len(failures)} templates cannot be dropped: {failures[0]}") from failures[0]

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        """See `Replica`."""
        wanted = set(keys)
        num_bytes = await self._ask(lambda: {key: self._editor.num_bytes(key) for key in wanted})
        return {key: HeldTemplate(num_bytes[key], self._hits.get(key, 0)) for key in wanted}

    async def prefetch(self, key: str) -> None:
        """Have the records of an edit that waits brought into memory. Nothing that goes wrong is raised."""
        with suppress(ReplicaError):
            await self._ask(lambda: self._editor.shelf.prefetch(key))

    def count_from_now(self, key: str) -> None:
        """Count the hits of a template, where they are not counted yet."""
        self._hits.setdefault(key, 0)

    def note_hit(self, key: str) -> None:
        """An edit was served from the template's records; it counts where hits of it are counted."""
        if key in self._hits:
            self._hits[key] += 1

    async def close(self) -> None:
        """Answer what was asked, give pins back, and take no more questions. A second time it does nothing."""
        if not self._is_closed:
            given_back = self._ask(lambda: self._unpin(set(self._pinned)))
            self._is_closed = True
            await given_back
            self._asking.shutdown()

    # In the thread.

    def _pin(self, keys: set[str]) -> int:
        held = {key for key in keys if self._editor.pin(key)}
        self._pinned |= held
        return len(held)

    def _unpin(self, keys: set[str]) -> None:
        self._pinned -= keys
        for key in keys:
            self._editor.unpin(key)

    def _forget(self, keys: set[str]) -> list[CacheError]:
        self._pinned -= keys
        failures = []
        for key in keys:
            try:
                self._editor.forget(key)
            except CacheError as error:
                failures.append(error)
        return failures

    def _ask(self, question: Callable[[], Answer]) -> asyncio.Future[Answer]:
        if self._is_closed:
            raise ReplicaError("the replica was closed")
        return asyncio.get_running_loop().run_in_executor(self._asking, question)
