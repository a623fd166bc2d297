"""Probes and metrics."""

from __future__ import annotations

import asyncio

from aiohttp import web

from instgenie import __version__
from instgenie.errors import ReplicaError
from instgenie.orders import Replica, ReplicaStats
from instgenie_server.app_keys import CACHE_METRICS, METRICS
from instgenie_server.routes.keys import ENGINE
from instgenie_server.routes.reply import json_reply
from instgenie_server.schemas import HealthReply

routes = web.RouteTableDef()

STATS_SECONDS = 1.0


@routes.get("/healthz")
async def healthz(_request: web.Request) -> web.Response:
    """Alive: answers as long as the event loop does."""
    return json_reply(HealthReply(status="ok", version=__version__))


@routes.get("/readyz")
async def readyz(request: web.Request) -> web.Response:
    """200 while edits are taken and there is a replica for them; 503 before, and while the server stops."""
    slot = request.app[ENGINE]
    is_away = slot.if_open is not None and not slot.if_open.presence.is_there
    status = "starting" if slot.status == "ok" and is_away else slot.status
    return json_reply(HealthReply(status=status, version=__version__), status=200 if status == "ok" else 503)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Prometheus text, the cache service's own families at its end where there is a service that answers."""
    app = request.app
    engine = app[ENGINE].if_open
    if engine is not None:
        app[METRICS].set_queue_seconds(engine.edits.waiting_seconds())
        app[METRICS].set_jobs({state.value: count for state, count in (await engine.jobs.counts()).items()})
        app[METRICS].set_replica(await _stats(engine.replica), engine.presence.returns)
    content_type, body = await asyncio.to_thread(app[METRICS].exposition)
    of_service = await app[CACHE_METRICS].text() if CACHE_METRICS in app else b""
    return web.Response(body=body + of_service, headers={"Content-Type": content_type})


async def _stats(replica: Replica) -> ReplicaStats | None:
    """What the replica says of itself; None where it cannot, or takes too long."""
    try:
        async with asyncio.timeout(STATS_SECONDS):
            return await replica.stats()
    except (TimeoutError, ReplicaError):
        return None
