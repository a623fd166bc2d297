"""Typed keys of what the routes use, besides those of `app_keys`."""

from __future__ import annotations

from aiohttp import web

from instgenie_server.access.pixel_budget import PixelBudget
from instgenie_server.access.upload_permits import UploadPermits
from instgenie_server.engine_slot import Engine, EngineSlot
from instgenie_server.fleet.awaited import FirstReplicas
from instgenie_server.intake.decode import PictureDecoder

ENGINE = web.AppKey("engine", EngineSlot)
FIRST_REPLICAS = web.AppKey("first_replicas", FirstReplicas)
DECODER = web.AppKey("decoder", PictureDecoder)
PIXELS = web.AppKey("pixels", PixelBudget)
UPLOADS = web.AppKey("uploads", UploadPermits)


def engine_of(request: web.Request) -> Engine:
    """What the request edits with.

    Raises:
        ApiError: 503 while the model is loaded.
    """
    return request.app[ENGINE].engine
