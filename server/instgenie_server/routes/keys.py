"""Typed keys of what the routes use, besides those of `app_keys`."""

from __future__ import annotations

import asyncio

from aiohttp import web

from instgenie_server.engine_slot import Engine, EngineSlot
from instgenie_server.intake.decode import PictureDecoder

ENGINE = web.AppKey("engine", EngineSlot)
DECODER = web.AppKey("decoder", PictureDecoder)
UPLOADS = web.AppKey("uploads", asyncio.Semaphore)


def engine_of(request: web.Request) -> Engine:
    """What the request edits with.

    Raises:
        ApiError: 503 while the model is loaded.
    """
    return request.app[ENGINE].engine
