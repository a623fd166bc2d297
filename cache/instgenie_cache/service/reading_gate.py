"""Whether a connection is read from: only while nobody has a reason against it."""

from __future__ import annotations

from typing import Literal, Protocol

Reason = Literal["room", "verify", "unread", "closing"]


class PausableConnection(Protocol):
    """See `FrameConnection`."""

    def pause(self) -> None:
        """Deliver no more frames."""
        ...

    def resume(self) -> None:
        """Deliver frames again."""
        ...


class ReadingGate:
    """Pauses a connection while it is held for at least one reason."""

    def __init__(self, connection: PausableConnection) -> None:
        self._connection = connection
        self._reasons: set[Reason] = set()

    def hold(self, reason: Reason) -> None:
        """Read no more. A second time for the same reason it does nothing."""
        self._reasons.add(reason)
        self._connection.pause()

    def free(self, reason: Reason) -> None:
        """The reason is gone."""
        if reason in self._reasons:
            self._reasons.discard(reason)
            if not self._reasons:
                self._connection.resume()
