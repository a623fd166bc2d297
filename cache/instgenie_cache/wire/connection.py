"""Frames over an asyncio transport, for both sides of a connection."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

from instgenie_cache.errors import ProtocolError
from instgenie_cache.wire.frames import Frame, FrameReader, encode_frame_head

_JOINED_BYTES = 64 * 1024  # payloads up to this length go out with their head in one call
_DISCARDED_BYTES = 256 * 1024  # at a time, of what still comes when this side has ended the connection


class FrameHandler(Protocol):
    """What a connection tells. All of it is called on the loop, in the order in which things come."""

    def sink(self, header: dict[str, Any], payload_bytes: int) -> Sequence[memoryview] | None:
        """Where a payload is to be written: see `FrameReader`. A `ProtocolError` from here ends the connection.

        Who raises `SinkBusyError` pauses the connection before, and is asked again once it is resumed.
        """
        ...

    def frame(self, frame: Frame) -> None:
        """A frame has come. A `ProtocolError` from here ends the connection."""
        ...

    def closed(self, error: Exception | None) -> None:
        """The connection has ended, by an error or in order. Called once, after everything else."""
        ...


class FrameConnection(asyncio.BufferedProtocol):
    """One connection, as a protocol for `loop.create_connection` and the like.

    What breaks the protocol is answered by an error frame with id 0, then the connection is closed.
    """

    def __init__(
        self,
        handler: FrameHandler,
        max_payload_bytes: int,
        *,
        linger_seconds: float = 0.0,
        stall_seconds: float | None = None,
    ) -> None:
        """Args:
        max_payload_bytes: of a frame that comes.
        linger_seconds: where this side ends the connection, the handler is told once the other one has seen it, and
            ended it as well, but not later than this.
        stall_seconds: that may pass within a frame without a byte of it, before the connection is ended.
        """
        self._handler = handler
        self._reader = FrameReader(max_payload_bytes, handler.sink)
        self._linger_seconds, self._stall_seconds = linger_seconds, stall_seconds
        self._ending: socket.socket | None = None  # the same socket once more, while this side ends the connection
        self._lingering: asyncio.Task[None] | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._received_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._frames: Iterator[Frame] = iter(())  # those which came while reading was paused
        self._is_delivering = self._is_paused = self._is_closing = False
        self._error: Exception | None = None
        self._ended = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()

    @property
    def is_closed(self) -> bool:
        """Nothing can be sent any more."""
        return self._is_closing or self._transport is None or self._transport.is_closing()

    @property
    def unsent_bytes(self) -> int:
        """What was sent, as far as the operating system has not taken it yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, header: Mapping[str, Any], views: Sequence[memoryview | bytes] = ()) -> None:
        """Send a frame whose payload is the views' bytes in order. They must not change until they are sent.

        On a closed connection it does nothing.

        Raises:
            ProtocolError: the header is too long.
        """
        pieces = [memoryview(view).cast("B") for view in views if len(view)]
        payload_bytes = sum(piece.nbytes for piece in pieces)
        head = encode_frame_head(header, payload_bytes)
        if self.is_closed:
            return
        assert self._transport is not None
        if payload_bytes <= _JOINED_BYTES:
            self._transport.write(b"".join((head, *pieces)))
            return
        self._transport.write(head)
        for piece in pieces:  # not writelines, which in Python 3.11 joins them
            self._transport.write(piece)

    async def drain(self) -> None:
        """Wait until the transport takes more: until it holds less than its low-water mark, or the connection ends."""
        await self._may_write.wait()

    def pause(self) -> None:
        """Deliver no more frames and, soon, read no more."""
        self._is_paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Deliver frames again, not before the next turn of the loop."""
        if self._is_paused:
            self._is_paused = False
            asyncio.get_running_loop().call_soon(self._go_on)

    def close(self) -> None:
        """Take nothing more, send what is still to be sent, then end."""
        self._is_closing = True
        if self._transport is not None:
            self._keep_socket(self._transport)
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._is_closing = True
        if self._transport is not None:
            self._keep_socket(self._transport)
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended and the handler was told."""
        await self._ended.wait()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast("asyncio.Transport", transport)
        if self._is_closing:
            self._transport.abort()
        elif self._stall_seconds is not None:
            self._watch(self._stall_seconds, -1)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - how much there is to read is not known
        """See `asyncio.BufferedProtocol`."""
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._received_bytes += nbytes
        self._frames = self._reader.filled(nbytes)
        self._deliver()

    def eof_received(self) -> bool:
        """See `asyncio.BufferedProtocol`. The transport closes itself."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._is_closing = True
        self._transport = None
        self._frames = iter(())
        self._reader.forget()
        self._may_write.set()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        if self._ending is None:
            self._end(exc)
        else:
            self._lingering = asyncio.ensure_future(self._linger(self._ending, exc))

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._may_write.set()

    def _end(self, error: Exception | None) -> None:
        """Tell the handler, which is let go: each has the other, and payloads would stay until a garbage collection."""
        handler, self._handler = self._handler, _NOBODY
        self._ended.set()
        handler.closed(self._error or error)

    def _keep_socket(self, transport: asyncio.Transport) -> None:
        """Before the transport closes its socket: keep it open as far as the system is concerned."""
        if self._linger_seconds and self._ending is None and not transport.is_closing():
            known = transport.get_extra_info("socket")
            if known is not None:
                self._ending = socket.socket(fileno=os.dup(known.fileno()))

    async def _linger(self, ending: socket.socket, error: Exception | None) -> None:
        """Say that nothing more comes, and wait until the other side has ended the connection, too."""
        loop = asyncio.get_running_loop()
        try:
            ending.setblocking(False)
            ending.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(self._linger_seconds):
                while await loop.sock_recv(ending, _DISCARDED_BYTES):
                    pass
        except (OSError, TimeoutError):  # it is gone, or it is too slow to wait for
            pass
        finally:
            ending.close()
            self._ending = None
            self._end(error)

    def _watch(self, stall_seconds: float, before_bytes: int) -> None:
        """End the connection if since the last look no byte of the frame came that is being received."""
        assert self._transport is not None
        is_stalled = self._received_bytes == before_bytes and self._reader.is_within_frame and not self._is_paused
        if is_stalled and not self.is_closed:
            self._error = ProtocolError(f"nothing came for {stall_seconds:g} s in the middle of a frame")
            self.abort()
            return
        loop = asyncio.get_running_loop()
        self._stall_timer = loop.call_later(stall_seconds, self._watch, stall_seconds, self._received_bytes)

    def _deliver(self) -> None:
        """Hand on frames until there are none, or the handler pauses."""
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            while not (self._is_paused or self._is_closing):
                frame = next(self._frames, None)
                if frame is None:
                    break
                self._handler.frame(frame)
        except ProtocolError as error:
            self._refuse(error)
        finally:
            self._is_delivering = False

    def _go_on(self) -> None:
        self._frames = self._reader.again()
        self._deliver()
        if not self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _refuse(self, error: ProtocolError) -> None:
        self._error = error
        self.send({"id": 0, "error": "protocol", "message": str(error)[:1000]})
        self.close()


class _Nobody:
    """The handler of a connection that has ended."""

    def sink(self, _header: dict[str, Any], _payload_bytes: int) -> Sequence[memoryview] | None:
        return None

    def frame(self, _frame: Frame) -> None:
        pass

    def closed(self, _error: Exception | None) -> None:
        pass


_NOBODY = _Nobody()
