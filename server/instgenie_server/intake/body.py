"""Receiving a request's body: within its size and time limits, and not too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from instgenie_server.api_error import ApiError, busy, invalid, too_large
from instgenie_server.settings import LimitSettings


async def receive_body(
    request: web.Request, limits: LimitSettings, uploads: asyncio.Semaphore, take: Callable[[bytes], None]
) -> None:
    """Hand the body to `take`, chunk by chunk as it comes in.

    Args:
        uploads: one permit is held while the body is read; its clock starts then.
        take: whatever it raises ends the reading.
    Raises:
        ApiError: 413 too large, 408 too slow, 400 the body breaks off or cannot be unpacked, 429 no permit in time.
        ConnectionError: the client left; nobody is there to be answered.
    """
    limit = limits.request_bytes
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    await _wait_for_permit(uploads, limits.upload_seconds)
    try:
        async with asyncio.timeout(limits.upload_seconds):
            received = 0
            async for chunk in request.content.iter_any():
                received += len(chunk)
                if received > limit:
                    raise _too_large(limit)
                take(chunk)
    except TimeoutError:
        message = f"the body took longer than {limits.upload_seconds:g} seconds to arrive"
        raise ApiError(408, message, "invalid_request_error", None, "upload_timeout") from None
    except web.RequestPayloadError as error:
        raise invalid("the body breaks off, or is not encoded as its headers say", code="malformed_body") from error
    finally:
        uploads.release()


async def read_json_body(request: web.Request, limits: LimitSettings, uploads: asyncio.Semaphore) -> bytes:
    """The whole body, as `receive_body` gets it."""
    body = bytearray()
    await receive_body(request, limits, uploads, body.extend)
    return bytes(body)


async def _wait_for_permit(uploads: asyncio.Semaphore, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await uploads.acquire()
    except TimeoutError:
        raise busy("too many uploads are under way", retry_after=1.0, code="too_many_uploads") from None


def _too_large(limit: int) -> ApiError:
    return too_large(f"the body is larger than {limit:,} bytes")
