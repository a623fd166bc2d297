"""One connection of a front end to a replica."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from instgenie.errors import ReplicaError
from instgenie.replica.fields import read_fields, to_fields
from instgenie.replica.messages import HELLO, MAX_PAYLOAD_BYTES, Body, Hello, Welcome
from instgenie_cache.errors import CacheError, ProtocolError
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.address import connect as connect_socket
from instgenie_cache.wire.connection import FrameConnection
from instgenie_cache.wire.frames import Frame
from instgenie_cache.wire.handshake import SharedSecret, say_hello


class GoneError(ReplicaError):
    """Nobody listens at a Unix socket: the process that did is gone, and does not come back."""


class LinkUser(Protocol):
    """Whom a link tells what comes."""

    def wants(self, header: dict[str, Any]) -> bool:
        """Whether the payload of such a frame is to be received."""
        ...

    def arrived(self, header: dict[str, Any], payload: bytes) -> None:
        """A frame has come. A `ProtocolError` from here ends the connection."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """How a replica is reached.

    Attributes:
        secret: for TCP; ignored over a Unix socket, to which its file mode says who may connect.
    """

    address: Address
    hello: Hello
    secret: SharedSecret | None = None


class ReplicaLink:
    """A connection, from its handshake to its end.

    Attributes:
        welcome: what the replica said to the hello.
    """

    def __init__(self, welcome: Welcome, user: LinkUser) -> None:
        """Use `connect`."""
        self.welcome = welcome
        self._user = user
        self._connection = FrameConnection(self, MAX_PAYLOAD_BYTES)
        self._waiting: deque[tuple[int, Body]] = deque()  # large ones go one at a time
        self._sending: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._heard_at = asyncio.get_running_loop().time()
        self._reason: str | None = None
        self._is_misunderstood = False

    @classmethod
    async def connect(
        cls,
        way: Way,
        user: LinkUser,
        *,
        timeout_seconds: float,
        ping_seconds: float,
        silence_seconds: float,
    ) -> Self:
        """Connect, say hello, and watch that the replica answers.

        Args:
            ping_seconds: without a word from the replica until it is asked for one.
            silence_seconds: without a word until the connection is ended.

        Raises:
            GoneError: nobody listens there, and the address is a Unix socket's.
            ReplicaError: no replica there, it refused, or it took too long.
        """
        address, sock, link = way.address, None, None
        try:
            async with asyncio.timeout(timeout_seconds):
                sock = await connect_socket(address, "replica")
                link = cls(read_fields(Welcome, await _greeted(sock, way)), user)
                await _attach(link._connection, address, sock)
        except BaseException as error:
            if link is not None:
                link._connection.abort()
            if sock is not None:
                sock.close()
            if isinstance(error, TimeoutError):
                raise ReplicaError(f"the replica at {address} took longer than {timeout_seconds:g} s") from error
            if address.is_unix and isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
                raise GoneError(str(error)) from error
            if isinstance(error, CacheError | OSError):
                raise ReplicaError(f"no connection to the replica at {address}: {error}") from error
            raise
        link._watching = asyncio.create_task(link._watch(ping_seconds, silence_seconds))
        return link

    def send(self, request_id: int, body: Body) -> None:
        """Send a request once those before it were taken. On a connection that has ended it does nothing."""
        self._waiting.append((request_id, body))
        if self._sending is None:
            self._send_some()
            if self._waiting and not self._connection.is_closed:
                self._sending = asyncio.create_task(self._send_rest())

    async def close(self, timeout_seconds: float) -> None:
        """Send what is to be sent, as far as the time goes, and end the connection."""
        try:
            async with asyncio.timeout(timeout_seconds):
                if self._sending is not None:
                    await asyncio.wait({self._sending})
                self._connection.close()
                await self._connection.wait_closed()
        except TimeoutError:
            self.abort()
            await self._connection.wait_closed()

    def abort(self) -> None:
        """End the connection at once."""
        self._connection.abort()

    @property
    def is_closed(self) -> bool:
        """Nothing can be sent any more."""
        return self._connection.is_closed

    @property
    def is_misunderstood(self) -> bool:
        """It has ended because one of the two said what the other could not read: it would say it again."""
        return self._is_misunderstood

    async def wait_closed(self) -> str:
        """Wait until the connection has ended: the reason."""
        await self._connection.wait_closed()
        return self._reason or "the connection ended"

    # What the connection calls.

    def sink(self, header: dict[str, Any], payload_bytes: int) -> Sequence[memoryview] | None:
        """See `FrameHandler`."""
        self._hear()
        return [memoryview(bytearray(payload_bytes))] if self._user.wants(header) else None

    def frame(self, frame: Frame) -> None:
        """See `FrameHandler`."""
        self._hear()
        header = frame.header
        if type(header.get("id")) is not int:
            raise ProtocolError(f"an answer to {repr(header.get('id'))[:20]}")
        if header["id"] == 0 and "error" in header:
            raise ProtocolError(f"the replica ends the connection: {header.get('message')}")
        self._user.arrived(header, b"".join(frame.views or ()))

    def closed(self, error: Exception | None) -> None:
        """See `FrameHandler`."""
        if error is not None and self._reason is None:
            self._reason = str(error)
            self._is_misunderstood = isinstance(error, ProtocolError)
        self._waiting.clear()
        for task in (self._sending, self._watching):
            if task is not None:
                task.cancel()

    def _hear(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()

    def _send_some(self) -> None:
        while self._waiting and not self._connection.unsent_bytes:
            request_id, body = self._waiting.popleft()
            self._connection.send({"id": request_id, **body.fields}, body.payload)

    async def _send_rest(self) -> None:
        try:
            while self._waiting and not self._connection.is_closed:
                await self._connection.drain()
                if self._waiting:
                    request_id, body = self._waiting.popleft()
                    self._connection.send({"id": request_id, **body.fields}, body.payload)
        finally:
            self._sending = None

    async def _watch(self, ping_seconds: float, silence_seconds: float) -> None:
        """Ask for a sign of life, and end the connection where there is none; what it takes in is one, too."""
        loop = asyncio.get_running_loop()
        before_bytes = 0
        while True:
            await asyncio.sleep(ping_seconds)
            unsent_bytes = self._connection.unsent_bytes
            if unsent_bytes < before_bytes:
                self._hear()
            before_bytes = unsent_bytes
            if loop.time() - self._heard_at >= silence_seconds:
                self._reason = f"nothing was heard of it for {silence_seconds:g} s"
                self.abort()
                return
            if not unsent_bytes:
                self._connection.send({"id": _PING_ID, "op": "ping"})


_PING_ID = 1  # that of the hello, and of no other request


async def _greeted(sock: socket.socket, way: Way) -> dict[str, Any]:
    """What the replica says to the hello.

    Raises:
        ReplicaError: it speaks another version of the protocol, or is no replica.
        CacheError: it refused, or the connection ended.
    """
    try:
        return await say_hello(sock, HELLO, to_fields(way.hello), None if way.address.is_unix else way.secret)
    except ProtocolError as error:
        version = way.hello.version
        raise ReplicaError(f"no replica that speaks version {version} at {way.address}: {error}") from error


async def _attach(connection: FrameConnection, address: Address, sock: Any) -> None:
    loop = asyncio.get_running_loop()
    make: Callable[[], FrameConnection] = lambda: connection  # noqa: E731 - both kinds take it
    if address.is_unix:
        await loop.create_unix_connection(make, sock=sock)
    else:
        await loop.create_connection(make, sock=sock)
