"""Ends of orders that nobody has acknowledged yet. Pure: no clock, no socket."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie.errors import ReplicaError
from instgenie.replica.messages import Body, encode_error


@dataclass(slots=True, eq=False)
class KeptEnd:
    """How an order ended. `body` becomes an error where the result had to go before it was sent."""

    order: str
    digest: str
    body: Body
    ended: float
    is_kept: bool = True


class KeptEnds:
    """Keeps ends until they are acknowledged, within bounds of bytes and of time. The oldest goes first.

    One end is kept whatever its size: whoever waits for it shall have it.
    """

    def __init__(self, max_bytes: int, max_seconds: float, max_ends: int = 100_000) -> None:
        self._max_bytes, self._max_seconds, self._max_ends = max_bytes, max_seconds, max_ends
        self._ends: dict[str, KeptEnd] = {}  # oldest first
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, order: str, digest: str, body: Body, now: float) -> KeptEnd:
        """Keep an end; an earlier one of the same order goes."""
        self._drop(self._ends.get(order), "another order of the same id has ended")
        end = self._ends[order] = KeptEnd(order, digest, body, now)
        self.num_bytes += body.payload_bytes
        self.expire(now)
        while len(self._ends) > 1 and (self.num_bytes > self._max_bytes or len(self._ends) > self._max_ends):
            self._drop(next(iter(self._ends.values())), f"more than {self._max_bytes} bytes of results waited")
        return end

    def get(self, order: str, now: float) -> KeptEnd | None:
        """The end of an order, if it is still there."""
        self.expire(now)
        return self._ends.get(order)

    def acknowledge(self, order: str) -> None:
        """Whoever ordered it has it. An unknown order is no error."""
        end = self._ends.pop(order, None)
        if end is not None:
            end.is_kept = False
            self.num_bytes -= end.body.payload_bytes

    def expire(self, now: float) -> None:
        """Let go of what is too old."""
        while self._ends:
            oldest = next(iter(self._ends.values()))
            if now - oldest.ended <= self._max_seconds:
                return
            self._drop(oldest, f"nobody fetched it for {self._max_seconds:g} s")

    def _drop(self, end: KeptEnd | None, reason: str) -> None:
        if end is None:
            return
        self.acknowledge(end.order)
        end.body = encode_error(ReplicaError(f"the result of order {end.order} was dropped: {reason}"))
