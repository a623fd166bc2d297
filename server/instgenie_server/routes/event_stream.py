"""Server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp_sse import EventSourceResponse

KEEPALIVE_SECONDS = 10.0


@asynccontextmanager
async def event_stream(
    request: web.Request, headers: Mapping[str, str] | None = None
) -> AsyncIterator[EventSourceResponse]:
    """A stream whose headers are sent; comments keep it alive between events. It ends with the block."""
    response = EventSourceResponse(headers=headers, sep="\n", allow_all_methods=True, ping_interval=KEEPALIVE_SECONDS)
    await response.prepare(request)
    try:
        yield response
    finally:
        response.stop_streaming()
