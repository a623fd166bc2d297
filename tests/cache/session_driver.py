"""A session at a transport that a test holds in its hands: it says how much the client reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from instgenie_cache.records.record import Record, RecordKey, encode_record
from instgenie_cache.service.announced_bytes import AnnouncedBytes
from instgenie_cache.service.private_memory import PrivateMemory
from instgenie_cache.service.served_store import ServedStore
from instgenie_cache.service.service_metrics import ServiceMetrics
from instgenie_cache.service.session import ClientRights, Session, SessionContext
from instgenie_cache.service.session_limits import SessionLimits
from instgenie_cache.service.shared_pins import SharedPins
from instgenie_cache.service.workers import Workers
from instgenie_cache.wire.connection import FrameConnection, FrameHandler
from instgenie_cache.wire.frames import FrameReader, encode_frame_head
from instgenie_cache.wire.messages import Message

Reply = tuple[dict[str, Any], bytes]


class HandTransport(asyncio.Transport):
    """Takes what is written while the client reads, else keeps references to it, as real transports do.

    Attributes:
        is_read: the client reads.
        is_fed: the connection reads.
        unread: pieces that were written and not read.
    """

    def __init__(self, protocol: FrameConnection, took: Callable[[bytes], None]) -> None:
        super().__init__()
        self._protocol, self._took = protocol, took
        self.is_read = self.is_fed = True
        self.unread: list[memoryview] = []
        self._is_ending = False
        self.was_aborted = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._is_ending:
            return
        if self.is_read and not self.unread:
            self._took(bytes(data))
            return
        self.unread.append(memoryview(data).cast("B"))
        self._protocol.pause_writing()

    def read(self, num_bytes: int | None = None) -> None:
        """The client reads what was written, or the first bytes of it; without a number it reads on."""
        self.is_read = num_bytes is None
        while self.unread and (num_bytes is None or num_bytes):
            piece = self.unread.pop(0)
            length = piece.nbytes if num_bytes is None else min(piece.nbytes, num_bytes)
            self._took(bytes(piece[:length]))
            if length < piece.nbytes:
                self.unread.insert(0, piece[length:])
            num_bytes = None if num_bytes is None else num_bytes - length
        if not self.unread:
            self._protocol.resume_writing()
            if self._is_ending:
                self._end()

    def get_write_buffer_size(self) -> int:
        return sum(piece.nbytes for piece in self.unread)

    def pause_reading(self) -> None:
        self.is_fed = False

    def resume_reading(self) -> None:
        self.is_fed = True

    def is_closing(self) -> bool:
        return self._is_ending

    def close(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            if not self.unread:
                self._end()

    def abort(self) -> None:
        self.was_aborted = True
        if not self._is_ending or self.unread:
            self._is_ending = True
            self.unread.clear()
            self._end()

    def _end(self) -> None:
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


class Side:
    """What sessions of one store share. Tests close it, for its threads' sake."""

    def __init__(
        self, store: ServedStore, *, private_bytes: int = 1 << 20, announced_bytes: int = 1 << 30, **limits: Any
    ) -> None:
        self.store = store
        self.metrics = ServiceMetrics()
        self.context = SessionContext(
            store=store,
            workers=Workers(quick=4, loading=4, slow=2),
            metrics=self.metrics,
            pins=SharedPins(store),
            private=PrivateMemory(private_bytes),
            limits=SessionLimits(**limits),
            announced=AnnouncedBytes(announced_bytes),
        )

    def client(self, namespace: str | None = None, *, maps_arena: bool = False) -> Driver:
        """Another connection."""
        return Driver(self.context, ClientRights("test", namespace, maps_arena))

    def close(self) -> None:
        """End the threads."""
        self.context.workers.close()

    def metric(self, line: str) -> float:
        """The value of a metric, with its labels as Prometheus writes them."""
        lines = self.metrics.generate().decode().splitlines()
        return sum(float(found.removeprefix(line)) for found in lines if found.startswith(f"{line} "))


class Driver:
    """The client of one session."""

    def __init__(self, context: SessionContext, rights: ClientRights) -> None:
        self.replies: dict[int, Reply] = {}
        self._came = asyncio.Event()
        self._next_id = 1
        self._to_feed = bytearray()
        self._from_service = FrameReader(1 << 30, lambda _header, length: [memoryview(bytearray(length))])

        def connect(handler: FrameHandler) -> FrameConnection:
            self.connection = FrameConnection(handler, 1 << 30)
            return self.connection

        self.session = Session(context, rights, connect)
        self.transport = HandTransport(self.connection, self._read)
        self.connection.connection_made(self.transport)

    async def ask(self, message: Message, payload: bytes = b"") -> Reply:
        """Send a request and wait for its reply."""
        return await self.reply(self.send(message, payload))

    def send(self, message: Message, payload: bytes = b"") -> int:
        """Send a request: its id."""
        return self.send_header({"op": getattr(message, "op", ""), **message.fields()}, payload)

    def send_header(self, header: dict[str, Any], payload: bytes = b"") -> int:
        """Send whatever it is, with an id."""
        number = self._next_id
        self._next_id += 1
        self.feed(encode_frame_head({"id": number, **header}, len(payload)) + payload)
        return number

    def feed(self, data: bytes) -> None:
        """Send bytes, as far as the connection reads."""
        self._to_feed += data
        while self._to_feed and self.transport.is_fed and not self.connection.is_closed:
            place = self.connection.get_buffer(-1)
            length = min(place.nbytes, len(self._to_feed))
            place[:length] = self._to_feed[:length]
            del self._to_feed[:length]
            self.connection.buffer_updated(length)

    async def reply(self, number: int) -> Reply:
        """Wait for the reply of a request."""
        async with asyncio.timeout(10):
            while number not in self.replies:
                self._came.clear()
                self.feed(b"")
                if number not in self.replies:
                    await self._turn()
        return self.replies.pop(number)

    async def settle(self, condition: Callable[[], bool]) -> None:
        """Wait until something has become true."""
        async with asyncio.timeout(10):
            while not condition():
                await self._turn()

    async def lose(self) -> None:
        """The client goes."""
        self.transport.abort()
        await self.connection.wait_closed()

    async def _turn(self) -> None:
        await asyncio.sleep(0.0005)  # of the loop, and of threads that work for it
        self.feed(b"")

    def _read(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest.nbytes:
            place = self._from_service.buffer()
            length = min(place.nbytes, rest.nbytes)
            place[:length] = rest[:length]
            rest = rest[length:]
            for frame in self._from_service.filled(length):
                self.replies[frame.header["id"]] = (frame.header, b"".join(frame.views or ()))


def record_bytes(template: str, step: int, block: int, fill: int, num_bytes: int) -> bytes:
    """A put's payload: a record full of one value."""
    record = Record("raw", "uint8", (num_bytes,), memoryview(bytes([fill % 256]) * num_bytes))
    return encode_record(RecordKey(template, step, block), record)
