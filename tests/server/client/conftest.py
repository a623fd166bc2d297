"""A server that answers as a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from instgenie_server.client import Connection

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Connect = Callable[..., Awaitable[Connection]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Gives a connection to a server that has this handler for everything."""
    async with AsyncExitStack() as stack:

        async def make(handler: Handler, api_key: str | None = None) -> Connection:
            runner = web.ServerRunner(web.Server(handler))  # type: ignore[arg-type]
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return await stack.enter_async_context(Connection(f"http://127.0.0.1:{runner.addresses[0][1]}/", api_key))

        yield make
