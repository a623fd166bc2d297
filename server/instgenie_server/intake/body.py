"""Receiving a request's body: within its size and time limits, and not too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import StreamReader, web

from instgenie_server.access.remote import counted_as
from instgenie_server.access.upload_permits import UploadPermits
from instgenie_server.api_error import ApiError, invalid, too_large
from instgenie_server.app_keys import IDENTITY
from instgenie_server.settings import LimitSettings


async def receive_body(
    request: web.Request, limits: LimitSettings, uploads: UploadPermits, take: Callable[[bytes], None]
) -> None:
    """Hand the body to `take`, chunk by chunk as it comes in.

    Args:
        uploads: one of the caller's permits is held while the body is read; its clock starts then.
        take: whatever it raises ends the reading.
    Raises:
        ApiError: 413 too large, 408 too slow, 400 the body breaks off or cannot be unpacked, 429 no permit in time.
        ConnectionError: the client left; nobody is there to be answered.
    """
    limit = limits.request_bytes
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    async with uploads.hold(_caller(request), limits.upload_seconds):
        try:
            await _receive(request.content, limits, take)
        except web.RequestPayloadError as error:
            raise invalid("the body breaks off, or is not encoded as its headers say", code="malformed_body") from error


async def read_json_body(request: web.Request, limits: LimitSettings, uploads: UploadPermits) -> bytes:
    """The whole body, as `receive_body` gets it."""
    body = bytearray()
    await receive_body(request, limits, uploads, body.extend)
    return bytes(body)


async def _receive(content: StreamReader, limits: LimitSettings, take: Callable[[bytes], None]) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + limits.upload_seconds
    idle_end = loop.time() + limits.idle_seconds
    received = 0
    try:
        async with asyncio.timeout_at(min(end, idle_end)) as clock:
            async for chunk in content.iter_any():
                received += len(chunk)
                if received > limits.request_bytes:
                    raise _too_large(limits.request_bytes)
                take(chunk)
                idle_end = loop.time() + limits.idle_seconds
                clock.reschedule(min(end, idle_end))
    except TimeoutError:
        if idle_end < end:
            message = f"nothing of the body arrived for {limits.idle_seconds:g} seconds"
        else:
            message = f"the body took longer than {limits.upload_seconds:g} seconds to arrive"
        raise ApiError(408, message, "invalid_request_error", None, "upload_timeout") from None


def _caller(request: web.Request) -> str:
    identity = request.get(IDENTITY)
    return counted_as(None if identity is None else identity.key_id, request.remote or "")


def _too_large(limit: int) -> ApiError:
    return too_large(f"the body is larger than {limit:,} bytes")
