"""Tasks that somebody keeps: none vanishes half done, none fails unheard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class KeptTasks:
    """Running tasks of one owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def keep(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run it beside the caller, who looks after its result and its error."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run it beside the caller; if it fails, that is logged."""
        task = self.keep(work, name)
        task.add_done_callback(_log_failure)
        return task

    async def complete(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run it to its end even where the caller is cancelled; the caller gets its result or its error."""
        task = self.keep(work, name)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                task.add_done_callback(_log_failure)  # nobody else will see it
            raise

    async def close(self, patience_seconds: float) -> None:
        """Wait for those that run; cancel them when patience is over."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=patience_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=patience_seconds)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed", task.get_name(), exc_info=error)
