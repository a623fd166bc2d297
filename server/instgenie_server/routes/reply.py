"""JSON replies from schemas."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel

_T = TypeVar("_T")
LARGE_BYTES = 1_000_000  # as base64 in JSON some 7 ms of work


def json_reply(reply: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """The schema as JSON; fields that are None are left out."""
    body = reply.model_dump_json(exclude_none=True)
    return web.Response(text=body, status=status, content_type="application/json", headers=headers)


async def off_loop_if_large(num_bytes: int, build: Callable[[], _T]) -> _T:
    """The built reply; in a thread where it holds so many bytes that building it would hold up other clients."""
    return await asyncio.to_thread(build) if num_bytes > LARGE_BYTES else build()


def to_base64(data: bytes) -> str:
    """The bytes as JSON can hold them."""
    return base64.b64encode(data).decode()
