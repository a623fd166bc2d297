"""JSON replies from schemas."""

from __future__ import annotations

import base64

from aiohttp import web
from pydantic import BaseModel


def json_reply(reply: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """The schema as JSON; fields that are None are left out."""
    body = reply.model_dump_json(exclude_none=True)
    return web.Response(text=body, status=status, content_type="application/json", headers=headers)


def to_base64(data: bytes) -> str:
    """The bytes as JSON can hold them."""
    return base64.b64encode(data).decode()
