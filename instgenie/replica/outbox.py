"""What a replica sends to one front end, which may be slow to read, or not read at all."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from instgenie.replica.kept_ends import KeptEnd
from instgenie.replica.messages import Body
from instgenie_cache.wire.connection import FrameConnection

log = logging.getLogger(__name__)

_REPORT_BYTES = 8 << 20  # reports are left out while more than this waits to be read
_REPLY_BYTES = 1 << 20  # requests wait while more than this does


class Outbox:
    """Sends through a connection so that little waits in memory: results go one at a time, as they are read.

    Who takes nothing for long is cut off; its results are kept for it elsewhere.
    """

    def __init__(self, connection: FrameConnection, unread_seconds: float) -> None:
        self._connection, self._unread_seconds = connection, unread_seconds
        self._ends: deque[tuple[int, KeptEnd]] = deque()
        self._sending: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """So much waits to be read that no more requests are to be taken."""
        return self._connection.unsent_bytes > _REPLY_BYTES

    def report(self, request_id: int, body: Body) -> None:
        """Send what may be lost."""
        if self._connection.unsent_bytes <= _REPORT_BYTES:
            self._send(request_id, body)

    def tell(self, request_id: int, body: Body) -> None:
        """Send what may not be lost; who does not read it is cut off."""
        self._send(request_id, body)
        if self.is_full:
            self._begin()

    def notice(self, body: Body) -> None:
        """Send what the other side has not asked for, and has to know."""
        self._send(0, body)

    def reply(self, request_id: int, body: Body) -> None:
        """Send an answer; who does not read them is not read from."""
        self._send(request_id, body)
        if self.is_full:
            self._connection.pause()
            self._begin()

    def end(self, request_id: int, end: KeptEnd) -> None:
        """Send an order's end once those before it were taken."""
        self._ends.append((request_id, end))
        self._begin()

    async def sent(self) -> None:
        """Wait until all ends were handed over, or the connection has ended."""
        while self._sending is not None:
            await asyncio.wait({self._sending})

    def close(self) -> None:
        """The connection has ended."""
        self._ends.clear()
        if self._sending is not None:
            self._sending.cancel()

    def _begin(self) -> None:
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_ends())

    async def _send_ends(self) -> None:
        try:
            while await self._is_taken():
                self._connection.resume()
                if not self._ends:
                    return
                request_id, end = self._ends.popleft()
                self._send(request_id, end.body)
        finally:
            self._sending = None

    async def _is_taken(self) -> bool:
        """Wait until the other side has taken nearly everything; False where it does not, and is cut off."""
        while not self._connection.is_closed:
            before_bytes = self._connection.unsent_bytes
            try:
                async with asyncio.timeout(self._unread_seconds):
                    await self._connection.drain()
            except TimeoutError:
                if self._connection.unsent_bytes >= before_bytes:
                    log.warning("a front end has read nothing for %g s and is cut off", self._unread_seconds)
                    self._connection.abort()
            else:
                return not self._connection.is_closed
        return False

    def _send(self, request_id: int, body: Body) -> None:
        header: dict[str, Any] = {"id": request_id, **body.fields}
        self._connection.send(header, body.payload)
