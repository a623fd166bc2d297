"""The server put together: its resources open in order when it starts, and close in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

from aiohttp import web

from instgenie.orders import Replica
from instgenie_server import middleware
from instgenie_server.access.auth import make_authenticator
from instgenie_server.access.pixel_budget import PixelBudget
from instgenie_server.access.rate_limit import RateLimiter
from instgenie_server.access.upload_permits import UploadPermits
from instgenie_server.app_keys import AUTHENTICATOR, CACHE_METRICS, IN_FLIGHT, METRICS, RATE_LIMITER, SETTINGS
from instgenie_server.edit_service import EditService
from instgenie_server.engine_slot import Engine, EngineSlot
from instgenie_server.fleet.awaited import FirstReplicas
from instgenie_server.fleet.fleet_replica import FleetReplica
from instgenie_server.in_flight import InFlight
from instgenie_server.intake.decode import PictureDecoder
from instgenie_server.jobs import DispatcherSettings, locked_folder, open_jobs
from instgenie_server.metrics import Metrics
from instgenie_server.observed_replica import ObservedReplica
from instgenie_server.order_maker import OrderMaker
from instgenie_server.presence import Presence
from instgenie_server.record_cache.exposition import ServiceExposition
from instgenie_server.record_cache.store import secret_of, service_address
from instgenie_server.routes import a1111, contract, edits, health, models, openai, page, templates
from instgenie_server.routes.keys import DECODER, ENGINE, FIRST_REPLICAS, PIXELS, UPLOADS
from instgenie_server.settings import Settings
from instgenie_server.template_registry import TemplateRegistry

DRAIN_SECONDS = 10.0
RUNNING_JOBS = 16  # on each replica

OpenReplica = Callable[[], AbstractAsyncContextManager[Replica]]


def make_app(
    settings: Settings, open_replica: OpenReplica, first_replicas: FirstReplicas | None = None
) -> web.Application:
    """The application. It answers at once; the replica is opened in the background, and closed when it ends.

    Args:
        open_replica: gives a replica that is ready to edit.
        first_replicas: knows what that waits for.
    """
    app = web.Application()
    app[SETTINGS] = settings
    app[METRICS] = Metrics()
    app[IN_FLIGHT] = InFlight()
    app[ENGINE] = EngineSlot()
    app[FIRST_REPLICAS] = first_replicas or FirstReplicas()
    app[a1111.RUNNING] = {}
    app[RATE_LIMITER] = RateLimiter(settings.limits.requests_per_minute)
    middleware.install(app)
    for surface in (health, models, openai, edits, templates, a1111, contract, page):
        app.add_routes(surface.routes)
    app.cleanup_ctx.extend([_data_folder, _access, _intake, _cache_metrics, lambda app: _engine(app, open_replica)])
    app.on_shutdown.append(_drain)
    return app


async def _data_folder(app: web.Application) -> AsyncIterator[None]:
    """Before anything is loaded: a second server on the folder is told at once."""
    async with locked_folder(app[SETTINGS].data_dir):
        yield


async def _access(app: web.Application) -> AsyncIterator[None]:
    app[AUTHENTICATOR] = make_authenticator(app[SETTINGS])
    yield
    app[AUTHENTICATOR].close()


async def _intake(app: web.Application) -> AsyncIterator[None]:
    limits = app[SETTINGS].limits
    app[UPLOADS] = UploadPermits(limits.uploads)
    app[PIXELS] = PixelBudget(limits.pixel_bytes)
    app[DECODER] = PictureDecoder(limits.decode_seconds)
    yield
    app[DECODER].close()


async def _cache_metrics(app: web.Application) -> AsyncIterator[None]:
    cache = app[SETTINGS].cache
    address = service_address(cache)
    if address is None:
        yield
        return
    app[CACHE_METRICS] = ServiceExposition(address, secret_of(cache))
    yield
    await app[CACHE_METRICS].close()


async def _engine(app: web.Application, open_replica: OpenReplica) -> AsyncIterator[None]:
    running = asyncio.create_task(app[ENGINE].run(lambda: _opened(app, open_replica)), name="engine")
    yield
    app[ENGINE].stop()
    await running


@asynccontextmanager
async def _opened(app: web.Application, open_replica: OpenReplica) -> AsyncIterator[Engine]:
    settings = app[SETTINGS]
    limits = settings.limits
    async with open_replica() as bare_replica:
        replica = ObservedReplica(bare_replica, app[METRICS])
        count_failure = partial(app[METRICS].count_edit_failure, "failed")
        fleet = bare_replica if isinstance(bare_replica, FleetReplica) else None
        presence = Presence() if fleet is None else fleet.presence
        if fleet is not None:
            fleet.on_decision(app[METRICS].observe_decision)
        running_jobs = limits.running_jobs or RUNNING_JOBS * (1 if fleet is None else fleet.size)
        orders = OrderMaker(app[DECODER], limits.pixel_bytes)
        job_settings = DispatcherSettings(concurrency=running_jobs)
        async with open_jobs(
            settings.data_dir,
            replica,
            orders.order,
            settings.retention,
            job_settings,
            on_failure=count_failure,
            is_locked=True,
        ) as jobs:

            def begin_or_hold_up() -> None:
                jobs.hold_up(held_up=not presence.is_there)

            presence.watch(begin_or_hold_up)
            begin_or_hold_up()
            templates = TemplateRegistry(replica, presence)
            warming = asyncio.create_task(templates.run(), name="templates")
            try:
                return_seconds = settings.engine.return_seconds
                edits = EditService(
                    replica,
                    jobs,
                    limits.queue_seconds,
                    presence,
                    return_seconds,
                    num_replicas=lambda: 1 if fleet is None else max(1, fleet.num_ready),
                    on_failure=count_failure,
                )
                yield Engine(replica, jobs, edits, templates, presence, fleet)
            finally:
                warming.cancel()
                with suppress(asyncio.CancelledError):
                    await warming


async def _drain(app: web.Application) -> None:
    """Take no new requests, and let those that run come to their end."""
    app[IN_FLIGHT].drain()
    await app[ENGINE].drain()
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            await app[IN_FLIGHT].idle()
