"""The order in which a replica takes its work. No I/O."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")

AGEING_SECONDS = 30.0


class WorkQueue(Generic[T]):
    """Work by priority, which ages: a level is worth a head start of `AGEING_SECONDS`, so that nothing starves."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """How much waits."""
        return len(self._heap)

    def put(self, item: T, now: float, priority: int = 0) -> None:
        """Let it wait.

        Args:
            now: seconds on any clock that all callers share.
            priority: larger goes first.
        """
        heapq.heappush(self._heap, (now - priority * AGEING_SECONDS, next(self._numbers), item))

    def take(self) -> T | None:
        """The next; None where nothing waits. Of equal ones the first that came."""
        return heapq.heappop(self._heap)[-1] if self._heap else None
