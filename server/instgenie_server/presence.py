"""Whether there is a replica just now: one that is a process of its own goes and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Presence:
    """Belongs to one event loop."""

    def __init__(self, *, is_there: bool = True) -> None:
        self._there = asyncio.Event()
        if is_there:
            self._there.set()
        self._watchers: list[Callable[[], None]] = []

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return self._there.is_set()

    async def wait(self) -> None:
        """Wait until there is one."""
        await self._there.wait()

    def watch(self, changed: Callable[[], None]) -> None:
        """Have this called when it comes or goes."""
        self._watchers.append(changed)

    def change(self, *, is_there: bool) -> None:
        """It came or went; the same again is no change."""
        if is_there == self.is_there:
            return
        if is_there:
            self._there.set()
        else:
            self._there.clear()
        for changed in self._watchers:
            changed()
