"""Sending replies to a client that may be slow to read, or not read at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from instgenie_cache.service.reading_gate import PausableConnection, ReadingGate

log = logging.getLogger(__name__)


class SendingConnection(PausableConnection, Protocol):
    """See `FrameConnection`. Its transport's high-water mark is 0: `drain` waits until the system has taken all."""

    @property
    def unsent_bytes(self) -> int:
        """What the system has not taken yet."""
        ...

    def send(self, header: Mapping[str, Any], views: Sequence[memoryview] = ()) -> None:
        """Send a frame. The views must stay as they are until they are sent."""
        ...

    async def drain(self) -> None:
        """Wait until all is sent, or the connection ends."""
        ...

    def abort(self) -> None:
        """End at once."""
        ...


class ReplySender:
    """Sends, and watches that the client reads.

    Payloads are not copied, so what waits to be sent takes no memory but for small replies. Beyond a number of those
    the client's requests wait.
    """

    def __init__(
        self, connection: SendingConnection, gate: ReadingGate, *, unread_replies: int, unread_seconds: float
    ) -> None:
        """Args:
        unread_replies: that may wait to be sent before reading stops.
        unread_seconds: after which a client that took nothing is cut off.
        """
        self._connection, self._gate = connection, gate
        self._unread_replies, self._unread_seconds = unread_replies, unread_seconds
        self._replies = 0  # since the client had read all
        self._payload_bytes = 0  # sent ever; heads are small
        self._watching: asyncio.Task[None] | None = None

    def send(self, header: Mapping[str, Any], views: Sequence[memoryview] = ()) -> None:
        """Send a reply. Its views must stay as they are until `sent` returns.

        Raises:
            ProtocolError: the header is too long.
        """
        self._connection.send(header, views)
        self._payload_bytes += sum(view.nbytes for view in views)
        if not self._connection.unsent_bytes:
            return
        self._replies += 1
        if self._replies >= self._unread_replies:
            self._gate.hold("unread")
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def sent(self) -> None:
        """Wait until the system has taken everything, or the connection has ended."""
        if self._watching is not None:
            await asyncio.wait({self._watching})

    def close(self) -> None:
        """The connection has ended: nothing more is sent."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        try:
            while unsent_bytes := self._connection.unsent_bytes:
                taken_bytes = self._payload_bytes - unsent_bytes
                try:
                    async with asyncio.timeout(self._unread_seconds):
                        await self._connection.drain()
                except TimeoutError:
                    if self._payload_bytes - self._connection.unsent_bytes <= taken_bytes:
                        log.warning("a client has read nothing for %g s: its connection is ended", self._unread_seconds)
                        self._connection.abort()
                        return
        finally:
            self._watching = None
            self._replies = 0
            self._gate.free("unread")
