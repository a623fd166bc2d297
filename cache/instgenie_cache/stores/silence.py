"""Leaving tiers alone that do not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from instgenie_cache.errors import CacheError


class Silence:
    """After a question that took long to fail, none is to be asked for a while, as each would take as long. What is
    expected to take long, and may fail for reasons of its own, is none.

    For any thread.
    """

    def __init__(self, seconds: float, slow_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        seconds: how long none is asked.
        slow_seconds: what takes long.
        clock: in seconds.
        """
        self._seconds, self._slow_seconds, self._clock = seconds, slow_seconds, clock
        self._until = float("-inf")

    @property
    def lasts(self) -> bool:
        """Whether a tier did not answer a little while ago."""
        return self._clock() < self._until

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around one question."""
        began = self._clock()
        try:
            yield
        except CacheError:
            now = self._clock()
            if now - began >= self._slow_seconds:
                self._until = now + self._seconds
            raise
        self._until = float("-inf")
