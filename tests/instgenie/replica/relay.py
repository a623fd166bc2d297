"""A Unix socket in front of another one, for connections that are to be cut, stopped, or led elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from instgenie_cache.wire.address import Address


class Relay:
    """Passes bytes on, in both directions.

    Attributes:
        target: where the next connections go; None ends them at once.
        flowing: while it is not set, nothing is passed on.
    """

    def __init__(self, path: Path, target: Address) -> None:
        self.address = Address(path=str(path))
        self.target: Address | None = target
        self.connections = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self) -> asyncio.Server:
        """Begin to listen."""
        assert self.address.path is not None
        return await asyncio.start_unix_server(self._came, self.address.path)

    def cut(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.target is None or self.target.path is None:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_unix_connection(self.target.path)
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self.flowing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort() if reader.exception() else writer.close()


@asynccontextmanager
async def relay_to(target: Address, path: Path) -> AsyncIterator[Relay]:
    """A relay that listens at a path."""
    relay = Relay(path, target)
    server = await relay.serve()
    try:
        yield relay
    finally:
        server.close()
        relay.flowing.set()
        relay.cut()
        await server.wait_closed()
