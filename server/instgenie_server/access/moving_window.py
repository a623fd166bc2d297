"""At most so many hits of one key in any stretch of time. Pure: the caller says what time it is.

Why not the library `limits`: its store in memory starts a thread (or, with asyncio, a task that hands every key to a
thread) for each hit, keeps a key for ever, and reads the wall clock, which may jump.
"""

from __future__ import annotations

from collections import OrderedDict, deque


class MovingWindow:
    """Times of the hits in the last `seconds`, by key; holds only keys with hits in that time."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self._hits: OrderedDict[str, deque[float]] = OrderedDict()  # the key that was hit last comes last

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._hits)

    def wait_seconds(self, key: str, now: float) -> float:
        """How long until a hit is let through; 0 is now."""
        hits = self._hits.get(key)
        if hits is None or len(hits) < self.limit:
            return 0.0
        return max(0.0, hits[0] + self.seconds - now)

    def hit(self, key: str, now: float) -> float:
        """Count a hit if it is let through; returns `wait_seconds`."""
        self._forget(now)
        wait = self.wait_seconds(key, now)
        if wait == 0:
            hits = self._hits.setdefault(key, deque(maxlen=self.limit))  # the oldest, which is out by now, falls off
            hits.append(now)
            self._hits.move_to_end(key)
        return wait

    def _forget(self, now: float) -> None:
        while self._hits:
            key, hits = next(iter(self._hits.items()))
            if hits[-1] + self.seconds > now:
                return
            del self._hits[key]
