"""Probes and metrics."""

from __future__ import annotations

import asyncio

from aiohttp import web

from instgenie import __version__
from instgenie_server.api_error import ApiError
from instgenie_server.app_keys import AUTHENTICATOR, CACHE_METRICS, METRICS
from instgenie_server.engine_slot import Engine
from instgenie_server.fleet.standing import Standing
from instgenie_server.middleware import caller_of
from instgenie_server.readiness import AwaitedReplica, ReadinessReply
from instgenie_server.routes.keys import ENGINE, FIRST_REPLICAS
from instgenie_server.routes.reply import json_reply
from instgenie_server.schemas import HealthReply, ReplicaCounts

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
    engine = slot.if_open
    status = "starting" if slot.status == "ok" and engine is not None and not engine.presence.is_there else slot.status
    fleet = None if engine is None else engine.fleet
    replicas = None if fleet is None else ReplicaCounts(ready=fleet.num_ready, all=fleet.size)
    awaited = await _awaited(request) if status != "draining" else None
    reply = ReadinessReply(status=status, version=__version__, replicas=replicas, awaited=awaited)
    return json_reply(reply, status=200 if status == "ok" else 503)


async def _awaited(request: web.Request) -> list[AwaitedReplica] | None:
    """Replicas that take no edits. Their addresses and errors are not for everybody who may probe."""
    app = request.app
    engine = app[ENGINE].if_open
    fleet = None if engine is None else engine.fleet
    away = app[FIRST_REPLICAS].awaited() if fleet is None else fleet.awaited()
    try:
        if away:
            await app[AUTHENTICATOR].identify(caller_of(request))
    except ApiError:
        return None
    return [
        AwaitedReplica(id=one.id, reason=one.reason, seconds=None if one.seconds is None else round(one.seconds, 1))
        for one in away
    ] or None


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Prometheus text, the cache service's own families at its end where there is a service that answers."""
    app = request.app
    engine = app[ENGINE].if_open
    if engine is not None:
        app[METRICS].set_queue_seconds(engine.edits.waiting_seconds())
        app[METRICS].set_jobs({state.value: count for state, count in (await engine.jobs.counts()).items()})
        app[METRICS].set_replicas(await _standings(engine))
    content_type, body = await asyncio.to_thread(app[METRICS].exposition)
    of_service = await app[CACHE_METRICS].text() if CACHE_METRICS in app else b""
    return web.Response(body=body + of_service, headers={"Content-Type": content_type})


async def _standings(engine: Engine) -> list[Standing]:
    """How the replicas stand; the one in this process is always there."""
    if engine.fleet is None:
        return [Standing("1", "ready", await engine.replica.stats())]
    return await engine.fleet.standings(STATS_SECONDS)
