"""A cache service that does what a test says, over a real Unix socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from instgenie_cache.errors import CacheError
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.connection import FrameConnection
from instgenie_cache.wire.error_frames import error_fields
from instgenie_cache.wire.frames import Frame
from instgenie_cache.wire.handshake import accept_hello, receive_hello
from instgenie_cache.wire.messages import REQUESTS, Empty, HelloReply, Message, Request

CREDIT_BYTES = 1000


class FakePeer:
    """The service's end of one connection."""

    def __init__(self) -> None:
        self.connection = FrameConnection(self, 1 << 30)
        self._requests: asyncio.Queue[tuple[int, Request, bytes]] = asyncio.Queue()

    async def next(self) -> tuple[int, Request, bytes]:
        """The next request: its number, the message and the payload."""
        return await self._requests.get()

    async def expect(self, kind: type[Request]) -> tuple[int, Any]:
        """The next request, of which one knows what it is."""
        number, request, _ = await self.next()
        assert isinstance(request, kind), request
        return number, request

    async def next_of(self, kind: type[Request]) -> tuple[int, Any]:
        """The next request of a kind; those before it are not answered."""
        while True:
            number, request, _ = await self.next()
            if isinstance(request, kind):
                return number, request

    @property
    def has_requests(self) -> bool:
        """Whether there are some that were not taken by `next`."""
        return not self._requests.empty()

    def reply(self, number: int, message: Message | None = None, views: Sequence[bytes] = ()) -> None:
        """Answer a request."""
        self.connection.send({"id": number, **(message or Empty()).fields()}, views)

    def fail(self, number: int, error: CacheError) -> None:
        """Answer it by an error."""
        self.connection.send(error_fields(number, error))

    # What the connection calls.

    def sink(self, header: dict[str, Any], payload_bytes: int) -> list[memoryview]:
        """See `FrameHandler`."""
        return [memoryview(bytearray(payload_bytes))]

    def frame(self, frame: Frame) -> None:
        """See `FrameHandler`."""
        header = dict(frame.header)
        number, kind = header.pop("id"), REQUESTS[header.pop("op")]
        self._requests.put_nowait((number, kind.read(header), b"".join(frame.views or ())))

    def closed(self, error: Exception | None) -> None:
        """See `FrameHandler`."""


class FakeService:
    """Lets every client in; each connection is a `FakePeer`."""

    def __init__(self, address: Address, reply: HelloReply, fd: int | None) -> None:
        self.address = address
        self._reply, self._fd = reply, fd
        self.run = reply.service  # as new connections are told
        self._peers: asyncio.Queue[FakePeer] = asyncio.Queue()
        self._all: list[FakePeer] = []
        self.serving: asyncio.Task[None] | None = None

    async def peer(self) -> FakePeer:
        """The next connection."""
        return await self._peers.get()

    async def serve(self, listener: socket.socket) -> None:
        """Accept clients, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            try:
                request = await receive_hello(sock, None)
                reply, fd = replace(self._reply, service=self.run), self._fd
                if request.hello.arena == "none":
                    reply, fd = replace(reply, arena_bytes=None), None
                await accept_hello(sock, request.request_id, reply, fd)
            except CacheError:
                sock.close()
                continue
            peer = FakePeer()
            self._all.append(peer)
            await loop.connect_accepted_socket(lambda peer=peer: peer.connection, sock)  # type: ignore[misc]
            self._peers.put_nowait(peer)

    def stop(self) -> None:
        """Take no more connections, and end all."""
        if self.serving is not None:
            self.serving.cancel()
        for peer in self._all:
            peer.connection.abort()


@asynccontextmanager
async def fake_service(
    path: Path, *, credit_bytes: int = CREDIT_BYTES, arena_bytes: int | None = None, fd: int | None = None
) -> AsyncIterator[FakeService]:
    """A service at that path until the block ends; then it is gone, connections and all."""
    reply = HelloReply(service="fake", arena_bytes=arena_bytes, credit_bytes=credit_bytes, payload_bytes=1 << 20)
    service = FakeService(Address(path=str(path)), reply, fd)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen()
        service.serving = asyncio.create_task(service.serve(listener))
        try:
            yield service
        finally:
            service.stop()
            await asyncio.wait([service.serving])
            for peer in service._all:
                await peer.connection.wait_closed()
            os.unlink(path)  # noqa: PTH108 - it does not block
